#!/usr/bin/env python3
"""Replays the recorded requests of vLLM against shoal's API and compares what a client sees.

Status, content type, error bodies: the same. Answers: the same keys in the same order, of the same types, with the same
counts; ids, times, texts and numbers of a model with random weights are free.

usage: replay_golden.py FAKE_SERVER GOLDEN_DIR
"""
import json
import pathlib
import subprocess
import sys
import urllib.error
import urllib.request

# Recorded with features that shoal does not have: what it says instead (status, a part of the body).
DIFFERENT = {
    "chat_guided_choice": (400, "`structured_outputs` is not supported yet"),
    "chat_json_object": (400, "`response_format` of type 'json_object' is not supported yet"),
    "chat_json_schema": (400, "`response_format` of type 'json_schema' is not supported yet"),
    "messages_anthropic": (404, "Not Found"),
    "responses": (404, "Not Found"),
    "model_one": (200, '"id":"qwen"'),  # OpenAI has this route, vLLM does not
    "metrics": (200, "vllm:num_requests_running"),
    "moe_auth_tools/chat_json_schema": (400, "not supported yet"),
    "moe_auth_tools/chat_history_tool": (400, "--enable-auto-tool-choice"),
    "moe_auth_tools/tools_auto": (400, "--enable-auto-tool-choice"),
    "moe_auth_tools/tools_named": (400, "`tool_choice` other than"),
    "moe_auth_tools/tools_required": (400, "`tool_choice` other than"),
    # shoal asks for its key everywhere but at /health
    "moe_auth_tools/auth_metrics_missing": (401, '{"error":"Unauthorized"}'),
    "moe_auth_tools/auth_invocations": (401, '{"error":"Unauthorized"}'),
    "moe_auth_tools/auth_ping": (401, '{"error":"Unauthorized"}'),
    "moe_auth_tools/auth_tokenize_missing": (401, '{"error":"Unauthorized"}'),
}
# Counts of tokens that depend on how the tokenizer splits the script.
FREE_COUNTS = {"completion_stop", "completion_stop_included"}
# Recorded with a reasoning parser, which adds this to the usage.
WITH_REASONING = {"moe_auth_tools/chat_no_thinking"}
# What the engine must say for the recording to make sense: the stop string and the stop token come second.
SCRIPTS = {"completion_stop": "script=a public lic", "completion_stop_included": "script=a public lic", "completion_stop_token_ids": "script_ids=72,61822"}
REBUILT = {
    "err_prompt_too_long": {"model": "qwen", "prompt": "hello " * 9000, "max_tokens": 2},
    "err_prompt_too_long_ids": {"model": "qwen", "prompt": [1] * 9000, "max_tokens": 2},
}
# Maps whose keys are tokens: how many there are depends on whether the chosen token is among the best.
TOKEN_MAPS = {"top_logprobs", "prompt_logprobs"}


# Metrics that dashboards made for vLLM look at first.
WANTED_METRICS = """num_requests_running num_requests_waiting kv_cache_usage_perc cache_config_info prompt_tokens_total generation_tokens_total
request_success_total num_preemptions_total prefix_cache_queries_total prefix_cache_hits_total time_to_first_token_seconds
inter_token_latency_seconds request_time_per_output_token_seconds e2e_request_latency_seconds request_prompt_tokens
request_generation_tokens request_params_n request_params_max_tokens""".split()


class Server:
    def __init__(self, program, *arguments):
        self.process = subprocess.Popen([program, *arguments], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        self.url = "http://127.0.0.1:" + self.process.stdout.readline().split()[1]

    def stop(self):
        self.process.stdin.close()
        assert self.process.wait(20) == 0, "the server ended badly"


def ask(server, request, body):
    data = None if body is None else body.encode()
    call = urllib.request.Request(server.url + request["path"], data=data, method=request["method"], headers=request["headers"])
    try:
        with urllib.request.urlopen(call, timeout=30) as answer:
            return answer.status, answer.headers, answer.read().decode()
    except urllib.error.HTTPError as answer:
        return answer.code, answer.headers, answer.read().decode()


def shape(value, key=None):
    """The value with every leaf replaced by its type."""
    if isinstance(value, dict):
        if key in TOKEN_MAPS and "token" not in value:
            return ["map", sorted({json.dumps(shape(v)) for v in value.values()})]
        return [[k, shape(v, k)] for k, v in value.items()]
    if isinstance(value, list):
        if key == "bytes":
            return "bytes"
        if key in ("prompt_token_ids", "prompt_logprobs", "tokens") or (key in ("text_offset", "token_logprobs", "top_logprobs") and value and value[0] is None):
            return ["some", sorted({json.dumps(shape(v, key)) for v in value})]
        return [shape(v, key) for v in value]
    if isinstance(value, bool) or value is None:
        return repr(value)
    return "number" if isinstance(value, float) and key != "temperature" else type(value).__name__


def without_echo(value):
    """Lists over prompt and answer have as many entries as the prompt has tokens, which depends on the tokenizer."""
    for choice in value.get("choices", []):
        logprobs = choice.get("logprobs")
        if isinstance(logprobs, dict) and logprobs.get("token_logprobs", [0])[0] is None:
            for key in logprobs:
                logprobs[key] = logprobs[key][:1] + logprobs[key][-4:]
    return value


def compare(name, wanted, got, problems):
    if got != wanted:
        problems.append(f"{name}:\n    wanted {json.dumps(wanted, ensure_ascii=False)[:1500]}\n    got    {json.dumps(got, ensure_ascii=False)[:1500]}")


def events(text):
    blocks = text.split("\n\n")
    assert blocks[-1] == "" and all(b.startswith("data: ") for b in blocks[:-1]), "not server-sent events"
    return [b[len("data: "):] for b in blocks[:-1]]


def compare_answer(name, record, folder, status, headers, body, problems):
    response = record["response"]
    compare(name + " status", response["status"], status, problems)
    for header in ("content-type", "allow"):
        compare(f"{name} {header}", response["headers"].get(header), headers.get(header), problems)
    if "body_text" in response:
        compare(name + " text", response["body_text"], body, problems)
    elif "body_sse_file" in response:
        wanted, got = events((folder / response["body_sse_file"]).read_text()), events(body)
        compare(name + " events", [e if e == "[DONE]" else shape(json.loads(e)) for e in wanted],
                [e if e == "[DONE]" else shape(json.loads(e)) for e in got], problems)
        usages = [[json.loads(e).get("usage", {}).get("completion_tokens") for e in es if e != "[DONE]"] for es in (wanted, got)]
        compare(name + " usage", *usages, problems)
    elif status >= 400:
        compare(name + " error", response["body"], json.loads(body), problems)
    else:
        answer = json.loads(body)
        if name in WITH_REASONING:
            response["body"]["usage"]["completion_tokens_details"] = None
        compare(name + " shape", shape(without_echo(response["body"])), shape(without_echo(answer)), problems)
        for value in (response["body"], answer):
            usage = value.get("usage")
            if usage:
                assert usage["total_tokens"] == usage["prompt_tokens"] + usage["completion_tokens"]
        if name not in FREE_COUNTS:
            counts = [value.get("usage", {}).get("completion_tokens") for value in (response["body"], answer)]
            compare(name + " completion tokens", *counts, problems)
        for kind in ("finish_reason", "stop_reason", "index"):
            compare(f"{name} {kind}", [c.get(kind) for c in response["body"].get("choices", [])], [c.get(kind) for c in answer.get("choices", [])], problems)
        if name.endswith("request_id_header"):
            compare(name + " id", response["body"]["id"], answer["id"], problems)
        elif "id" in answer:
            prefix = response["body"]["id"].rsplit("-", 1)[0]
            if not (answer["id"].startswith(prefix + "-") and len(answer["id"]) == len(response["body"]["id"])):
                problems.append(f"{name}: id {answer['id']} where vLLM has {response['body']['id']}")


def compare_metrics(text, names, problems):
    """Each metric of vLLM's has vLLM's type and labels; the promised ones are there."""
    known = dict(line.split() for line in names.splitlines() if line)
    ours = dict(line.split()[2:4] for line in text.splitlines() if line.startswith("# TYPE"))
    for name, kind in ours.items():
        if not name.startswith("shoal:") and known.get(name) != kind:
            problems.append(f"metrics: {name} is a {kind}, in vLLM {known.get(name)}")
    problems += [f"metrics: no vllm:{name}" for name in WANTED_METRICS if f"vllm:{name}" not in ours]
    for line in text.splitlines():
        if line.startswith("vllm:") and not ('engine="0"' in line and 'model_name="qwen"' in line):
            problems.append(f"metrics: labels of {line}")


def main():
    program, folder = sys.argv[1], pathlib.Path(sys.argv[2])
    plain, keyed = Server(program, "n_vocab=151936"), Server(program, "n_vocab=151936", "key=sk-test")
    problems, n_compared = [], 0
    for path in sorted(folder.rglob("*.json")):
        name = str(path.relative_to(folder))[:-len(".json")]
        record = json.loads(path.read_text())
        request = record["request"]
        server, own = keyed if "/" in name else plain, None
        if name in SCRIPTS:
            server = own = Server(program, "n_vocab=151936", SCRIPTS[name])
        body = json.dumps(REBUILT.get(name, request["body"])) if "body" in request else request.get("raw_body")
        status, headers, text = ask(server, request, body)
        if own:
            own.stop()
        if name == "metrics":
            compare_metrics(text, (folder / "metrics_names.txt").read_text(), problems)
        if name in DIFFERENT:
            wanted_status, part = DIFFERENT[name]
            if status != wanted_status or part not in text:
                problems.append(f"{name}: wanted {wanted_status} with '{part}', got {status} {text[:500]}")
        else:
            compare_answer(name, record, path.parent, status, headers, text, problems)
            n_compared += 1
    plain.stop()
    keyed.stop()
    for problem in problems:
        print("DIFFERENT", problem)
    print(f"{n_compared} recordings compared, {len(DIFFERENT)} with another answer on purpose, {len(problems)} differences")
    return 1 if problems or n_compared < 60 else 0


if __name__ == "__main__":
    sys.exit(main())
