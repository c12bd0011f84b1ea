#!/usr/bin/env python3
"""`shoal bench serve` against `shoal serve` and against a server that misbehaves in every way; `shoal bench latency` and `throughput`.
usage: run_commands.py SHOAL MODEL_DIR"""
import contextlib
import json
import os
import pathlib
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time

SHOAL, MODEL = (os.path.abspath(p) for p in sys.argv[1:3])
ENV = {k: v for k, v in os.environ.items() if k != "OPENAI_API_KEY"}
LAUNCH = ["--threads", "1", "--max-model-len", "256", "--kv-cache-memory-bytes", "32MiB", "--log-level", "warning"]


def bench(*args, env=None, timeout=120):
    """(exit status, what it printed, its errors)"""
    done = subprocess.run([SHOAL, "bench", *map(str, args)], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, timeout=timeout, env={**ENV, **(env or {})})
    return done.returncode, done.stdout, done.stderr


def bench_serve(port, *args, env=None, n=4):
    """The status, what was printed, and the result file."""
    with tempfile.TemporaryDirectory() as folder:
        status, out, err = bench("serve", "--port", port, "--num-prompts", n, "--random-input-len", 12, "--random-output-len", 6, "--save-detailed",
                                 "--result-dir", folder + "/new", "--result-filename", "r.json", *args, env=env)
        path = pathlib.Path(folder, "new", "r.json")
        return status, out + err, json.loads(path.read_text()) if path.exists() else None


def free_port():
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        return s.getsockname()[1]


def test_a_real_server(port):
    status, out, result = bench_serve(port, "--ready-check-timeout-sec", 60, "--num-warmups", 2, "--max-concurrency", 3, "--metadata", "cpu=this",
                                      "--percentile-metrics", "ttft,tpot,itl,e2el", "--metric-percentiles", "50,99", "--goodput", "e2el:100000", n=10)
    assert status == 0, out
    assert out.count("Successful requests:                     10") == 1 and "P99 E2EL (ms):" in out, out
    assert result["completed"] == 10 and result["failed"] == 0 and result["model_id"] == "tiny" and result["cpu"] == "this"
    assert result["total_input_tokens"] == 120 and result["total_output_tokens"] == 60, "ignore_eos and ids as prompts"
    assert result["input_lens"] == [12] * 10 and result["output_lens"] == [6] * 10
    assert result["max_concurrent_requests"] <= 3
    assert all(len(gaps) <= 5 for gaps in result["itls"]) and all(t > 0 for t in result["ttfts"])
    assert result["request_goodput"] == result["request_throughput"] == result["completed"] / result["duration"] or \
        abs(result["request_goodput"] * result["duration"] - 10) < 1e-6
    assert 0 < result["mean_ttft_ms"] <= result["p99_ttft_ms"] <= result["p99_e2el_ms"]


def test_texts_and_chats(port):
    status, out, result = bench_serve(port, "--tokenizer", MODEL, "--temperature", 0)
    assert status == 0 and result["input_lens"] == [12] * 4, out
    status, out, result = bench_serve(port, "--backend", "openai-chat", "--model", MODEL, "--served-model-name", "tiny", "--request-rate", 200)
    assert status == 0 and result["completed"] == 4 and min(result["input_lens"]) > 12, out
    assert all(result["generated_texts"]), "texts of the answers"


def test_files_of_prompts(port):
    with tempfile.TemporaryDirectory() as folder:
        lengths = pathlib.Path(folder, "lengths.csv")
        lengths.write_text("prompt_tokens,reply_tokens\n5,3\n9,4\n")
        status, out, result = bench_serve(port, "--dataset-name", "sharegpt-lengths", "--dataset-path", lengths, "--disable-shuffle", n=3)
        assert status == 0 and result["input_lens"] == [5, 9, 5] and result["output_lens"] == [3, 4, 3], out
        custom = pathlib.Path(folder, "custom.jsonl")
        custom.write_text('{"prompt": "To be, or not to be"}\n{"prompt": "O, what a noble mind"}\n')
        status, out, result = bench_serve(port, "--dataset-name", "custom", "--dataset-path", custom, "--custom-output-len", 5, "--ignore-eos", "--no-oversample")
        assert status == 0 and result["completed"] == 2 and result["output_lens"] == [5, 5], out


def test_refusals(port):
    status, out, result = bench_serve(port, "--model", "other")
    assert status == 1 and result["failed"] == 4 and result["completed"] == 0
    assert "First error: HTTP 404: The model `other` does not exist" in out, out
    status, out, _ = bench_serve(free_port(), "--model", "m")
    assert status == 1 and "First error: " in out and "onnect" in out, out
    status, _, err = bench("serve", "--request-rate", "-3", "--model", "m")
    assert status == 2 and err == "shoal bench serve: --request-rate should be requests per second or inf, but is '-3'\n", err
    status, _, err = bench("serve", "--model", "m", "--backend", "openai-chat")
    assert status == 2 and "--tokenizer is missing" in err, err
    status, _, err = bench("serve", "--max-concurency", "3")
    assert status == 2 and "did you mean --max-concurrency?" in err, err
    assert bench()[0] == 2 and bench("--help")[0] == 0 and bench("latency", "--help")[0] == 0


class Standin:
    """Answers each connection by `behave(connection, request)`, then closes it. Knows just enough of HTTP to be wrong."""

    def __init__(self, behave):
        self.behave, self.requests = behave, []
        self.listener = socket.create_server(("127.0.0.1", 0), backlog=64)
        self.port = self.listener.getsockname()[1]
        threading.Thread(target=self.accept, daemon=True).start()

    def accept(self):
        with contextlib.suppress(OSError):
            while True:
                threading.Thread(target=self.answer, args=(self.listener.accept()[0],), daemon=True).start()

    def answer(self, connection):
        with contextlib.suppress(OSError), connection:
            data = b""
            while b"\r\n\r\n" not in data:
                data += connection.recv(65536) or exit()
            head, _, body = data.partition(b"\r\n\r\n")
            length = next(int(line.split(b":")[1]) for line in head.split(b"\r\n") if line.lower().startswith(b"content-length"))
            while len(body) < length:
                body += connection.recv(65536) or exit()
            self.requests.append((head.decode(), json.loads(body)))
            self.behave(connection, len(self.requests))


HEAD = b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nConnection: close\r\n\r\n"


def token(text="x", finish="null"):
    return b'data: {"choices": [{"text": "%s", "finish_reason": %s}]}\n\n' % (text.encode(), finish.encode())


def run_standin(behave, *args, **kwargs):
    standin = Standin(behave)
    status, out, result = bench_serve(standin.port, "--model", "m", *args, **kwargs)
    standin.listener.close()
    return status, out, result, standin.requests


def all_fail(behave, message, *args):
    status, out, result, _ = run_standin(behave, *args)
    assert status == 1 and result["failed"] == 4 and result["completed"] == 0, out
    assert f"First error: {message}" in out, out


def test_a_server_that_misbehaves(_):
    def reset(connection):
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")

    all_fail(lambda c, n: c.sendall(HEAD + token()), "the answer broke off after 1 chunk(s)")
    all_fail(lambda c, n: c.sendall(HEAD), "the answer broke off after 0 chunk(s)")
    all_fail(lambda c, n: c.sendall(HEAD + b"data: [DONE]\n\n"), "the answer holds no tokens")
    all_fail(lambda c, n: c.sendall(HEAD + token() + b"data: {oops\n\n"), "chunk '{oops': not valid JSON")
    all_fail(lambda c, n: c.sendall(HEAD + b'{"choices": []}\n'), "the answer is no event stream: '{\"choices\": []}'")
    all_fail(lambda c, n: c.sendall(HEAD + token() + b'data: {"error": {"message": "engine died"}}\n\n'), "the server gave up: engine died")
    all_fail(lambda c, n: c.sendall(HEAD + b"data: " + b"y" * 3_000_000), "a line of the answer is longer than 1048576 bytes")
    all_fail(lambda c, n: c.sendall(b"HTTP/1.1 503 Busy\r\nContent-Length: 4\r\n\r\nfull"), "HTTP 503: full")
    all_fail(lambda c, n: c.sendall(b"HTTP/1.1 500 Oh\r\nContent-Length: 200000\r\n\r\n" + b"z" * 200000), "POST http://127.0.0.1:")
    all_fail(lambda c, n: c.sendall(b"what?\r\n\r\n"), "POST http://127.0.0.1:")
    all_fail(lambda c, n: None, "POST http://127.0.0.1:")
    all_fail(lambda c, n: reset(c), "POST http://127.0.0.1:")
    all_fail(lambda c, n: (c.sendall(HEAD + token()), time.sleep(5)), "POST http://127.0.0.1:", "--request-timeout-sec", "1")


def test_some_fail(_):
    """Every second one; the good ones count, and requests are what they should be."""
    good = HEAD + b": warm\r\n\r\n" + token("a") + token("b", '"length"') + b"data: [DONE]\r\n\r\n"
    status, out, result, requests = run_standin(lambda c, n: c.sendall(good if n % 2 else HEAD), "--max-concurrency", 1, "--header", "X-Tag=7",
                                                "--extra-body", '{"top_k": 4}', "--temperature", 0.5, env={"OPENAI_API_KEY": "secret"})
    assert status == 0 and result["completed"] == 2 and result["failed"] == 2, out
    assert result["output_lens"] == [2, 0, 2, 0] and result["input_lens"] == [12] * 4, "counted by chunks where the server gives no usage"
    assert [bool(e) for e in result["errors"]] == [False, True, False, True]
    head, body = requests[0]
    for line in ("POST /v1/completions HTTP/1.1", "Authorization: Bearer secret", "X-Tag: 7", "X-Request-Id: bench-", "Content-Type: application/json"):
        assert line in head, head
    assert {k: body[k] for k in body if k != "prompt"} == {"model": "m", "stream": True, "stream_options": {"include_usage": True}, "max_tokens": 6,
                                                           "ignore_eos": True, "top_k": 4, "temperature": 0.5}
    assert len(body["prompt"]) == 12 and all(0 <= t < 1000 for t in body["prompt"])
    assert len({json.dumps(b["prompt"]) for _, b in requests}) == 4, "no prompt twice"


def test_concurrency_is_kept(_):
    """With 12 requests, 3 at a time, never more connections than 3; the check and the warm-ups come before and have prompts of their own."""
    under_way, most, lock = 0, 0, threading.Lock()

    def behave(connection, _):
        nonlocal under_way, most
        with lock:
            under_way += 1
            most = max(most, under_way)
        time.sleep(0.05)
        with lock:
            under_way -= 1
        connection.sendall(HEAD + token("a", '"stop"') + b"data: [DONE]\n\n")

    status, out, result, requests = run_standin(behave, "--max-concurrency", 3, "--num-warmups", 4, "--ready-check-timeout-sec", 10, n=12)
    assert status == 0 and most == 3 and result["completed"] == 12 and len(requests) == 17, (most, out)
    assert len({json.dumps(b["prompt"]) for _, b in requests}) == 17
    assert result["max_concurrent_requests"] <= 3


def test_interrupt_prints_what_there_is(_):
    def behave(connection, n):
        connection.sendall(HEAD + token("a"))
        if n > 5:
            time.sleep(60)
        connection.sendall(token("b", '"length"') + b"data: [DONE]\n\n")

    standin = Standin(behave)
    process = subprocess.Popen([SHOAL, "bench", "serve", "--port", str(standin.port), "--model", "m", "--num-prompts", "20", "--max-concurrency", "2",
                                "--random-input-len", "4"], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=ENV)
    until = time.monotonic() + 60
    while len(standin.requests) < 7 and time.monotonic() < until:
        time.sleep(0.02)
    process.send_signal(signal.SIGINT)
    out, err = process.communicate(timeout=60)
    assert process.returncode == 1 and "stopped before the end" in err, (out, err)
    assert "Successful requests:                     5" in out and "Requests cut off:                        15" in out, out
    assert "Failed requests:                         0" in out, out
    standin.listener.close()


def test_latency(_):
    with tempfile.TemporaryDirectory() as folder:
        path = pathlib.Path(folder, "latency.json")
        status, out, err = bench("latency", MODEL, "--input-len", 16, "--output-len", 8, "--batch-size", 3, "--num-iters-warmup", 1, "--num-iters", 3,
                                 "--output-json", path, *LAUNCH)
        assert status == 0, err
        result = json.loads(path.read_text())
        assert len(result["latencies"]) == 3 and abs(result["avg_latency"] - sum(result["latencies"]) / 3) < 1e-9
        assert sorted(result["percentiles"], key=int) == ["10", "25", "50", "75", "90", "99"]
        assert result["percentiles"]["50"] == sorted(result["latencies"])[1]
        assert out.startswith("Avg latency: ") and "99% percentile latency: " in out, out
    status, _, err = bench("latency", MODEL, "--input-len", 250, *LAUNCH)
    assert status == 1 and "do not fit --max-model-len 256" in err, err
    assert bench("latency")[0] == 2


def test_throughput(_):
    with tempfile.TemporaryDirectory() as folder:
        path = pathlib.Path(folder, "throughput.json")
        status, out, err = bench("throughput", MODEL, "--input-len", 16, "--output-len", 8, "--num-prompts", 12, "--n", 2, "-pp", 2, "--output-json", path, *LAUNCH)
        assert status == 0, err
        result = json.loads(path.read_text())
        assert result["num_requests"] == 12 and result["total_num_tokens"] == 12 * (16 + 2 * 8), result
        assert abs(result["requests_per_second"] * result["elapsed_time"] - 12) < 1e-6
        assert out.startswith("Throughput: ") and "Total num output tokens:  192" in out, out
        custom = pathlib.Path(folder, "custom.jsonl")
        custom.write_text('{"prompt": "To be, or not to be", "output_tokens": 4}\n')
        status, out, err = bench("throughput", MODEL, "--dataset-name", "custom", "--dataset-path", custom, "--custom-output-len", -1, "--num-prompts", 3, *LAUNCH)
        assert status == 0 and "Total num output tokens:  12" in out, err


def main():
    port = free_port()
    server = subprocess.Popen([SHOAL, "serve", MODEL, "--host", "127.0.0.1", "--port", str(port), "--served-model-name", "tiny", *LAUNCH], env=ENV)
    try:
        tests = [(name, f) for name, f in globals().items() if name.startswith("test_")]
        for name, test in tests:
            start = time.monotonic()
            test(port)
            print(f"{name}: {time.monotonic() - start:.1f} s", flush=True)
        print(f"{len(tests)} passed, 0 failed")
    finally:
        server.terminate()
        server.wait(30)


main()
