"""`shoal serve` on hosts of namespaces: starts it, asks it, and compares greedy tokens with the reference."""

import json
import os
import threading
import time
import urllib.error
import urllib.request

HERE = os.path.dirname(os.path.abspath(__file__))
DATA = os.path.join(os.path.dirname(HERE), "data")
MODEL = os.path.join(DATA, "models", "tiny-qwen3")
PORT = 8000

with open(os.path.join(DATA, "golden", "tiny-qwen3-public.json")) as file:
    CASES = json.load(file)["cases"]


class Serve:
    """One server on a host. Arguments as on the command line, after the model."""

    def __init__(self, host, binary, *args, env=None, model=MODEL, name="tiny"):
        self.host, self.url = host, f"http://127.0.0.1:{PORT}"
        clean = {k: v for k, v in os.environ.items() if not k.startswith(("RAY_", "SHOAL_", "GLOO_", "HF_"))}
        clean.update(HOME=host.hosts.scratch, **(env or {}))
        self.process = host.spawn(
            binary, "serve", model, "--served-model-name", name, "--host", "127.0.0.1", "--port", str(PORT), *args, env=clean
        )

    def request(self, path, body=None, timeout=60):
        """(status, parsed answer or text); status 0 when there was no answer."""

        def ask():
            data = None if body is None else json.dumps(body).encode()
            request = urllib.request.Request(self.url + path, data, {"Content-Type": "application/json"})
            try:
                with urllib.request.urlopen(request, timeout=timeout) as answer:
                    return answer.status, answer.read().decode()
            except urllib.error.HTTPError as error:
                return error.code, error.read().decode()
            except OSError as error:
                return 0, str(error)

        status, text = self.host.call(ask)
        try:
            return status, json.loads(text)
        except ValueError:
            return status, text

    def wait_ready(self, timeout_s=60):
        end = time.monotonic() + timeout_s
        while time.monotonic() < end:
            if not self.process.running():
                raise AssertionError(f"the server ended with status {self.process.wait(0)}:\n{self.process.output()}")
            if self.request("/health", timeout=5)[0] == 200:
                return self
            time.sleep(0.1)
        raise AssertionError(f"the server is not ready after {timeout_s} s:\n{self.process.output()}")

    def check_golden(self, n_cases=len(CASES)):
        """The greedy continuations are the reference's, asked one after the other and then all at the same time."""
        for case in CASES[:n_cases]:
            self.check_case(case)
        errors = []

        def check(case):
            try:
                self.check_case(case)
            except AssertionError as error:
                errors.append(error)

        threads = [threading.Thread(target=check, args=(case,)) for case in CASES[:n_cases]]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert not errors, errors[0]

    def check_case(self, case):
        body = {
            "model": "tiny",
            "prompt": case["prompt_token_ids"],
            "max_tokens": len(case["greedy_token_ids"]),
            "temperature": 0,
            "ignore_eos": True,
            "return_token_ids": True,
        }
        status, answer = self.request("/v1/completions", body)
        assert status == 200, (status, answer, self.process.output())
        got = answer["choices"][0]["token_ids"]
        assert got == case["greedy_token_ids"], f"prompt {case['prompt']!r}:\n got {got}\nwant {case['greedy_token_ids']}"

    def start_long(self, n):
        """n requests that last until something ends them. Returns a function that waits: [(status, answer, seconds since its call)]."""
        results, threads = [None] * n, []
        body = {"model": "tiny", "prompt": "From fairest creatures", "max_tokens": 3500, "temperature": 0, "ignore_eos": True}

        def run(index):
            answer = self.request("/v1/completions", body, timeout=120)
            results[index] = (*answer, time.monotonic())

        for index in range(n):
            thread = threading.Thread(target=run, args=(index,), daemon=True)
            thread.start()
            threads.append(thread)

        def finish(timeout_s):
            since = time.monotonic()
            for thread in threads:
                thread.join(max(0, since + timeout_s - time.monotonic()))
            assert all(results), f"{results.count(None)} of {n} requests still wait after {timeout_s} s:\n{self.process.output()}"
            return [(status, answer, at - since) for status, answer, at in results]

        return finish

    def stop(self, signum, timeout_s=20):
        self.process.kill(signum)
        status = self.process.wait(timeout_s)
        assert status is not None, f"the server has not ended after {timeout_s} s:\n{self.process.output()}"
        return status


def wait_gone(hosts, binary_name, timeout_s):
    """Until no process of shoal is left on any host; returns the seconds that it took."""
    begin = time.monotonic()
    while True:
        left = [
            (host.name, command)
            for host in hosts
            for _, command in host.processes(binary_name)
            if "--driver" in command or " serve " in command
        ]
        took = time.monotonic() - begin
        if not left:
            return took
        assert took < timeout_s, f"still there after {timeout_s} s: {left}"
        time.sleep(0.05)
