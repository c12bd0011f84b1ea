#!/usr/bin/env python3
"""Speaks to a server with OpenAI's own Python client, as users do.

usage: run.py --base-url http://127.0.0.1:8000/v1 --model NAME [--api-key KEY]
       run.py --fake-server PROGRAM        starts the API over the fake engine and speaks to that
       run.py --serve PROGRAM MODEL        starts `shoal serve` with two ranks and speaks to that

Every test takes the same client; what a test needs of the model is little: text from any prompt, greedy answers that
repeat themselves. Those named real_ look at what sampling parameters do: they need a model behind the API.
"""
import argparse
import asyncio
import http.client
import json
import socket
import subprocess
import sys
import threading
import time
import traceback
import urllib.parse

import openai

PROMPT = "tell me how to sleep well"
CHAT = [{"role": "system", "content": "You are helpful."}, {"role": "user", "content": PROMPT}]


class Bench:
    """The server under test."""

    def __init__(self, base_url, model, api_key):
        self.base_url, self.model, self.api_key = base_url.rstrip("/"), model, api_key
        self.root = self.base_url.removesuffix("/v1")
        self.client = openai.OpenAI(base_url=self.base_url, api_key=api_key, max_retries=0, timeout=120)

    def raw(self, method, path, body=None, timeout_s=120):
        """A request below the client's level; returns the answer, not yet read."""
        where = urllib.parse.urlsplit(self.root)
        connection = http.client.HTTPConnection(where.hostname, where.port, timeout=timeout_s)
        headers = {"Content-Type": "application/json", "Authorization": f"Bearer {self.api_key}"}
        try:
            connection.request(method, path, None if body is None else json.dumps({"model": self.model, **body}), headers)
            answer = connection.getresponse()
            answer.connection = connection  # kept as long as the answer
            return answer
        except socket.timeout:
            connection.close()
            raise

    def post(self, path, body):
        return json.loads(self.raw("POST", path, body).read())

    def complete(self, **more):
        return self.client.completions.create(**{"model": self.model, "prompt": PROMPT, "max_tokens": 12, "temperature": 0, **more})

    def chat(self, **more):
        return self.client.chat.completions.create(**{"model": self.model, "messages": CHAT, "max_tokens": 12, "temperature": 0, **more})

    def metric(self, name):
        for line in self.raw("GET", "/metrics").read().decode().splitlines():
            if line.startswith(name + "{"):
                return float(line.rsplit(" ", 1)[1])
        raise AssertionError(f"no metric {name}")

    def becomes_idle(self, seconds):
        until = time.monotonic() + seconds
        while self.metric("vllm:num_requests_running") > 0:
            assert time.monotonic() < until, "the work of a client that left goes on"
            time.sleep(0.02)


def test_models(b):
    assert b.model in [m.id for m in b.client.models.list().data]
    assert b.client.models.retrieve(b.model).id == b.model


def test_completion(b):
    answer = b.complete()
    assert answer.id.startswith("cmpl-") and answer.object == "text_completion" and answer.model == b.model
    assert answer.usage.total_tokens == answer.usage.prompt_tokens + answer.usage.completion_tokens
    assert answer.choices[0].finish_reason in ("length", "stop")
    assert answer.usage.completion_tokens == 12 or answer.choices[0].finish_reason == "stop"
    assert b.complete().choices[0].text == answer.choices[0].text, "greedy answers differ"


def test_completion_stream(b):
    whole = b.complete(max_tokens=20).choices[0].text
    chunks = list(b.complete(max_tokens=20, stream=True, stream_options={"include_usage": True}))
    assert "".join(c.choices[0].text for c in chunks if c.choices) == whole
    assert chunks[-1].choices == [] and chunks[-1].usage.completion_tokens <= 20
    assert [c.choices[0].finish_reason for c in chunks if c.choices][-1] in ("length", "stop")
    assert all(c.usage is None for c in chunks[:-1])
    running = [c.usage.completion_tokens for c in b.complete(stream=True, stream_options={"include_usage": True, "continuous_usage_stats": True})]
    assert running == sorted(running) and running[-1] == running[-2]


def test_chat(b):
    answer = b.chat()
    assert answer.id.startswith("chatcmpl-") and answer.choices[0].message.role == "assistant"
    whole = answer.choices[0].message.content
    chunks = list(b.chat(stream=True))
    assert chunks[0].choices[0].delta.role == "assistant" and chunks[0].choices[0].delta.content == ""
    assert "".join(c.choices[0].delta.content or "" for c in chunks) == whole
    parts = [{"role": "system", "content": [{"type": "text", "text": "You are helpful."}]}, {"role": "user", "content": [{"type": "text", "text": PROMPT}]}]
    assert b.chat(messages=parts).choices[0].message.content == whole
    assert b.chat(max_tokens=openai.NOT_GIVEN, max_completion_tokens=3).usage.completion_tokens <= 3


def test_prompt_forms(b):
    ids = b.post("/tokenize", {"prompt": PROMPT})["tokens"]
    assert b.post("/detokenize", {"tokens": ids})["prompt"] == PROMPT
    of_text = b.complete().choices[0].text
    assert b.complete(prompt=ids).choices[0].text == of_text
    assert [c.text for c in b.complete(prompt=[PROMPT, PROMPT]).choices] == [of_text] * 2
    assert [c.text for c in b.complete(prompt=[ids, ids]).choices] == [of_text] * 2
    assert b.complete(echo=True).choices[0].text == PROMPT + of_text


def test_choices_and_seeds(b):
    first = [c.text for c in b.complete(n=3, temperature=1, seed=5).choices]
    assert len(first) == 3
    assert [c.text for c in b.complete(n=3, temperature=1, seed=5).choices] == first, "a seed does not repeat"
    seen = {0: "", 1: ""}
    for chunk in b.complete(n=2, temperature=1, seed=5, stream=True):
        seen[chunk.choices[0].index] += chunk.choices[0].text
    assert [seen[0], seen[1]] == first[:2]


def test_logprobs(b):
    answer = b.complete(logprobs=3, max_tokens=4)
    logprobs = answer.choices[0].logprobs
    assert len(logprobs.tokens) == len(logprobs.token_logprobs) == len(logprobs.top_logprobs) == answer.usage.completion_tokens
    assert logprobs.text_offset[0] == 0 and all(v <= 0 for v in logprobs.token_logprobs)
    assert all(1 <= len(top) <= 4 for top in logprobs.top_logprobs)
    content = b.chat(logprobs=True, top_logprobs=2, max_tokens=3).choices[0].logprobs.content
    assert len(content) <= 3 and all(len(entry.top_logprobs) == 2 for entry in content)
    assert all(isinstance(entry.bytes, list) for entry in content)
    echoed = b.complete(echo=True, logprobs=1, max_tokens=1)
    assert echoed.choices[0].logprobs.token_logprobs[0] is None
    assert len(echoed.choices[0].logprobs.tokens) == echoed.usage.total_tokens


def test_stop(b):
    whole = b.complete(max_tokens=24).choices[0].text
    stop = whole[len(whole) // 2: len(whole) // 2 + 2]
    if not stop.strip() or "\ufffd" in stop:
        return
    answer = b.complete(max_tokens=24, stop=["\x01never", stop])
    assert answer.choices[0].text == whole[: whole.index(stop)]
    assert answer.choices[0].finish_reason == "stop" and answer.choices[0].model_extra["stop_reason"] == stop
    kept = b.complete(max_tokens=24, stop=stop, extra_body={"include_stop_str_in_output": True})
    assert kept.choices[0].text == whole[: whole.index(stop)] + stop
    streamed = "".join(c.choices[0].text for c in b.complete(max_tokens=24, stop=stop, stream=True))
    assert streamed == answer.choices[0].text, "a stream shows a part of its stop string"


def test_token_ids(b):
    answer = b.complete(extra_body={"return_token_ids": True})
    assert len(answer.choices[0].model_extra["token_ids"]) == answer.usage.completion_tokens
    assert len(answer.choices[0].model_extra["prompt_token_ids"]) == answer.usage.prompt_tokens
    first = answer.choices[0].model_extra["token_ids"][0]
    stopped = b.complete(extra_body={"stop_token_ids": [first]})
    assert stopped.choices[0].text == "" and stopped.choices[0].model_extra["stop_reason"] == first
    ignoring = b.complete(extra_body={"ignore_eos": True, "min_tokens": 12})
    assert ignoring.usage.completion_tokens == 12 and ignoring.choices[0].finish_reason == "length"


def refused(call, kind, part):
    try:
        call()
    except kind as error:
        assert part in str(error), str(error)
        return error
    raise AssertionError(f"not refused: {part}")


def test_errors(b):
    error = refused(lambda: b.complete(top_p=1.5), openai.BadRequestError, "top_p must be in (0, 1], got 1.5.")
    assert error.body["type"] == "BadRequestError" and error.body["param"] == "top_p" and error.body["code"] == 400
    refused(lambda: b.complete(model="nope"), openai.NotFoundError, "The model `nope` does not exist.")
    refused(lambda: b.complete(max_tokens=10**9), openai.BadRequestError, "cannot be greater than max_model_len")
    refused(lambda: b.complete(n=2), openai.BadRequestError, "n must be 1 when using greedy sampling")
    refused(lambda: b.chat(messages=[]), openai.BadRequestError, "empty conversation")
    refused(lambda: b.chat(tool_choice="auto"), openai.BadRequestError, "`tools` must be set")
    refused(lambda: b.complete(prompt="x " * 200000), openai.BadRequestError, "maximum context length")
    assert json.loads(b.raw("GET", "/v1/nothing").read()) == {"detail": "Not Found"}


def test_disconnect(b):
    for _ in range(3):
        stream = b.complete(max_tokens=400, stream=True, extra_body={"ignore_eos": True})
        next(iter(stream))
        stream.close()
        b.becomes_idle(2)
    try:  # and one that waits for an answer in one piece
        b.raw("POST", "/v1/completions", {"prompt": PROMPT, "max_tokens": 400, "ignore_eos": True}, timeout_s=0.3)
    except socket.timeout:
        pass
    b.becomes_idle(2)


def test_slow_reader_harms_nobody(b):
    def read_slowly():
        answer = b.raw("POST", "/v1/completions", {"prompt": PROMPT, "max_tokens": 200, "ignore_eos": True, "stream": True})
        for _ in range(4):
            assert answer.read1(64)
            time.sleep(0.3)
        answer.connection.close()

    slow = threading.Thread(target=read_slowly)
    slow.start()
    for _ in range(3):
        assert b.complete(max_tokens=4).usage.completion_tokens <= 4
    slow.join()


def test_many_at_once(b):
    async def all_at_once():
        async with openai.AsyncOpenAI(base_url=b.base_url, api_key=b.api_key, max_retries=0, timeout=120) as client:
            async def one(i):
                text = ""
                stream = await client.completions.create(model=b.model, prompt=f"{i} {PROMPT}", max_tokens=16, stream=True, extra_body={"ignore_eos": True})
                async for chunk in stream:
                    text += chunk.choices[0].text
                    last = chunk.choices[0].finish_reason
                return last
            return await asyncio.gather(*(one(i) for i in range(16)))

    assert asyncio.run(all_at_once()) == ["length"] * 16


def ids_of(choice):
    return choice.model_extra["token_ids"]


def sample_ids(b, **extra):
    """Ids of one answer; fields beyond OpenAI's go as they are."""
    known = {k: extra.pop(k) for k in ("temperature", "max_tokens", "seed", "top_p", "prompt", "stop", "logit_bias", "presence_penalty") if k in extra}
    return ids_of(b.complete(**known, extra_body={"return_token_ids": True, "ignore_eos": True, **extra}).choices[0])


def real_words_and_tokens_to_avoid(b):
    greedy = sample_ids(b)
    n_words = n_pairs = 0
    for at in range(len(greedy) - 1):
        for n in (1, 2):
            word = b.post("/detokenize", {"tokens": greedy[at : at + n]})["prompt"]
            if word.lstrip() != word or b.post("/tokenize", {"prompt": word})["tokens"] != greedy[at : at + n]:
                continue
            avoiding = sample_ids(b, bad_words=[word])
            if n == 1:
                assert greedy[at] not in avoiding
                n_words += 1
            elif greedy[: at + 1].count(greedy[at]) == 1:
                assert avoiding[: at + 1] == greedy[: at + 1] and avoiding[at + 1] != greedy[at + 1], "only a word's end is forbidden, behind its beginning"
                n_pairs += 1
    assert n_words > 0 and n_pairs > 0
    assert greedy[0] not in sample_ids(b, logit_bias={str(greedy[0]): -100})
    assert set(sample_ids(b, logit_bias={"1000": 100}, temperature=1)) == {1000}
    assert set(sample_ids(b, allowed_token_ids=[7, 1500], temperature=1, max_tokens=64)) <= {7, 1500}


def real_min_tokens_and_stops(b):
    greedy = sample_ids(b)
    answer = b.complete(extra_body={"return_token_ids": True, "stop_token_ids": [greedy[0]], "min_tokens": 5, "ignore_eos": True})
    assert len(ids_of(answer.choices[0])) >= 5 and greedy[0] not in ids_of(answer.choices[0])[:5]
    text = b.complete(max_tokens=24, extra_body={"ignore_eos": True}).choices[0].text
    stopped = b.complete(max_tokens=24, stop=text[:1], extra_body={"min_tokens": 24, "ignore_eos": True}).choices[0]
    assert stopped.finish_reason == "length" and stopped.text == text, "a stop string before min_tokens is text"


def real_truncation_is_greedy_at_its_end(b):
    greedy = sample_ids(b)
    assert sample_ids(b, temperature=1, top_k=1) == greedy
    assert sample_ids(b, temperature=1, top_p=1e-6) == greedy
    assert sample_ids(b, temperature=1, min_p=1.0) == greedy
    assert len({tuple(sample_ids(b, temperature=2, seed=i)) for i in range(6)}) > 1


def real_seeds_in_company(b):
    kinds = [{"temperature": 0.8, "seed": 1}, {"temperature": 1.2, "seed": 2, "top_k": 50}, {"temperature": 1, "seed": 3, "top_p": 0.9, "min_p": 0.01},
             {"temperature": 1, "seed": 4, "presence_penalty": 1.5, "repetition_penalty": 1.1}]
    alone = [sample_ids(b, **dict(kind)) for kind in kinds]
    together = [None] * 12

    def one(i):
        together[i] = sample_ids(b, **dict(kinds[i % 4]))

    threads = [threading.Thread(target=one, args=[i]) for i in range(12)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert together == alone * 3, "a seed's tokens depend on company"
    assert sample_ids(b, temperature=1, frequency_penalty=2.0, repetition_penalty=2.0, top_k=1, max_tokens=48) != sample_ids(b, max_tokens=48)


def real_logprobs_agree(b):
    prompt = b.post("/tokenize", {"prompt": PROMPT})["tokens"]
    answer = b.complete(prompt=prompt, logprobs=5, extra_body={"return_token_ids": True, "ignore_eos": True, "return_tokens_as_token_ids": True}).choices[0]
    told, ids = answer.logprobs, ids_of(answer)
    for token, logprob, top in zip(ids, told.token_logprobs, told.top_logprobs):
        assert len(top) == 5 and top[f"token_id:{token}"] == logprob == max(top.values()), "greedy takes the most likely"
        assert sum(2.718281828 ** v for v in top.values()) <= 1.0001
    # the same tokens as a prompt: the same log-probabilities, and a rank each
    scored = b.complete(prompt=prompt + ids, max_tokens=1, extra_body={"prompt_logprobs": 1}).choices[0].model_extra["prompt_logprobs"]
    for token, logprob, entry in zip(ids, told.token_logprobs, scored[len(prompt):]):
        assert abs(entry[str(token)]["logprob"] - logprob) < 0.05 and entry[str(token)]["rank"] == 1
    given = b.complete(prompt=prompt, max_tokens=1, extra_body={"logprob_token_ids": [3, ids[0]], "return_tokens_as_token_ids": True}).choices[0].logprobs
    assert set(given.top_logprobs[0]) == {"token_id:3", f"token_id:{ids[0]}"} and given.token_logprobs[0] == told.token_logprobs[0]
    chat = b.chat(max_tokens=1, logprobs=True, top_logprobs=1, temperature=1, top_p=1e-6).choices[0].logprobs.content[0]
    assert chat.logprob == chat.top_logprobs[0].logprob, "log-probabilities are those of the raw logits"


def real_usage_and_truncation(b):
    assert b.complete(extra_body={"truncate_prompt_tokens": 3}).usage.prompt_tokens == 3
    long = {"prompt": "Once upon a time there was a king. " * 12, "max_tokens": 2}
    b.complete(**long)
    again = b.complete(**long).usage
    assert 0 < again.prompt_tokens_details.cached_tokens < again.prompt_tokens
    salted = b.complete(**long, extra_body={"cache_salt": "mine"}).usage
    assert not salted.prompt_tokens_details or not salted.prompt_tokens_details.cached_tokens
    refused(lambda: b.complete(extra_body={"cache_salt": ""}), openai.BadRequestError, "cache_salt")


def start_serve(program, model):
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    process = subprocess.Popen([program, "serve", model, "--served-model-name", "qwen", "--host", "127.0.0.1", "--port", str(port),
                                "--tensor-parallel-size", "2", "--enable-prompt-tokens-details", "--kv-cache-memory-bytes", "64MiB", "--dtype", "float32"],
                               stdin=subprocess.PIPE, stdout=subprocess.DEVNULL)
    until = time.monotonic() + 60
    while True:
        try:
            connection = http.client.HTTPConnection("127.0.0.1", port, timeout=5)
            connection.request("GET", "/health")
            if connection.getresponse().status == 200:
                return process, f"http://127.0.0.1:{port}/v1"
        except OSError:
            pass
        if process.poll() is not None or time.monotonic() > until:
            process.kill()
            raise SystemExit("the server did not come up")
        time.sleep(0.1)


def start_fake(program):
    process = subprocess.Popen([program, "delay_ms=2"], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    return process, f"http://127.0.0.1:{process.stdout.readline().split()[1]}/v1"


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--base-url")
    parser.add_argument("--model", default="qwen")
    parser.add_argument("--api-key", default="none")
    parser.add_argument("--fake-server")
    parser.add_argument("--serve", nargs=2, metavar=("PROGRAM", "MODEL"))
    parser.add_argument("--only", help="run the tests whose names contain this")
    options = parser.parse_args()
    process = None
    if options.fake_server:
        process, options.base_url = start_fake(options.fake_server)
    if options.serve:
        process, options.base_url = start_serve(*options.serve)
    kinds = ("test_",) if options.fake_server else ("test_", "real_")
    bench = Bench(options.base_url, options.model, options.api_key)
    n_failed = 0
    for name, test in [(n, f) for n, f in globals().items() if n.startswith(kinds) and (options.only or "") in n]:
        begin = time.monotonic()
        try:
            test(bench)
            print(f"ok     {name} {time.monotonic() - begin:.2f} s", flush=True)
        except Exception:
            n_failed += 1
            print(f"FAILED {name}\n{traceback.format_exc()}", flush=True)
    if process:
        process.stdin.close()
        if options.serve:
            process.terminate()
        if process.wait(20) != 0:
            n_failed += 1
            print("FAILED the server ended badly")
    return 1 if n_failed else 0


if __name__ == "__main__":
    sys.exit(main())
