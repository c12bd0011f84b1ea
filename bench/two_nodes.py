#!/usr/bin/env python3
"""Decode of one sequence on one node of one core, on two such nodes with --tensor-parallel-size 2 over a veth link, and, since the two nodes
of one machine share its memory bus, on one node with a thread on each core: alternating rounds.
usage: two_nodes.py SHOAL MODEL.gguf [ROUNDS] [TOKENS]     needs root (network namespaces) and two cores"""
import json
import os
import pathlib
import statistics
import sys
import tempfile
import time
import urllib.request

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parent.parent / "tests" / "nodes"))
import hosts as namespaces  # noqa: E402

PORT = 8000


def decode_rate(n_tokens):
    """Tokens per second of decode: a long answer less a short one, so that prompt and connection do not count. Not streamed: the client
    runs on the same two cores and would take its part of them for every token."""
    seconds = []
    for n in (8, 8 + n_tokens):
        body = {"model": "m", "prompt": list(range(300, 316)), "max_tokens": n, "temperature": 0, "ignore_eos": True}
        request = urllib.request.Request(f"http://127.0.0.1:{PORT}/v1/completions", json.dumps(body).encode(), {"Content-Type": "application/json"})
        start = time.monotonic()
        urllib.request.urlopen(request, timeout=600).read()
        seconds.append(time.monotonic() - start)
    return n_tokens / (seconds[1] - seconds[0])


def serve(host, cores, n_threads, shoal, model, *args):
    env = {k: v for k, v in os.environ.items() if not k.startswith(("SHOAL_", "RAY_"))}
    env.update(HOME=host.hosts.scratch, SHOAL_LAUNCH_SECRET="a" * 64)
    return host.spawn("taskset", "-c", cores, shoal, "serve", model, "--served-model-name", "m", "--host", "127.0.0.1", "--port", str(PORT),
                      "--threads", str(n_threads), "--max-model-len", "1024", "--max-num-seqs", "4", *args, env=env)


def wait_ready(host, process):
    def ask():
        try:
            return urllib.request.urlopen(f"http://127.0.0.1:{PORT}/health", timeout=5).status
        except OSError:
            return 0

    for _ in range(600):
        if not process.running():
            raise SystemExit(process.output())
        if host.call(ask) == 200:
            return
        time.sleep(0.1)
    raise SystemExit("the server is not ready after 60 s:\n" + process.output())


def measure(host, processes, n_tokens):
    wait_ready(host, processes[0])
    host.call(decode_rate, 8)
    rate = host.call(decode_rate, n_tokens)
    processes[0].kill(15)  # the headless one ends with it
    for process in processes:
        process.wait(10)
    return rate


def main():
    shoal, model = (os.path.abspath(p) for p in sys.argv[1:3])
    rounds, n_tokens = (int(a) for a in (sys.argv[3:] + ["3", "128"][len(sys.argv[3:]):]))
    ones, twos, shared = [], [], []
    with tempfile.TemporaryDirectory() as logs, namespaces.Hosts(2, logs) as hosts:
        for _ in range(rounds):
            ones.append(measure(hosts[0], [serve(hosts[0], "0", 1, shoal, model)], n_tokens))
            split = ["--tensor-parallel-size", "2", "--nnodes", "2", "--master-addr", hosts[0].ip, "--node-rank"]
            pair = [serve(hosts[0], "0", 1, shoal, model, *split, "0"), serve(hosts[1], "1", 1, shoal, model, *split, "1", "--headless")]
            twos.append(measure(hosts[0], pair, n_tokens))
            shared.append(measure(hosts[0], [serve(hosts[0], "0,1", 2, shoal, model)], n_tokens))
            print(f"one core {ones[-1]:.1f} tok/s, two nodes {twos[-1]:.1f} ({twos[-1] / ones[-1]:.2f} x), "
                  f"two threads {shared[-1]:.1f} ({shared[-1] / ones[-1]:.2f} x)", flush=True)
    two, limit = (statistics.median(r / o for o, r in zip(ones, rates)) for rates in (twos, shared))
    print(f"medians: one core {statistics.median(ones):.1f} tok/s, two nodes {two:.2f} x, two threads {limit:.2f} x")


main()
