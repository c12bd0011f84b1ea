#!/usr/bin/env python3
"""Decode on one node of one core, and on two such nodes over a veth link: one sequence with --tensor-parallel-size 2, or many at once with
--pipeline-parallel-size 2. Since both nodes of one machine share its memory bus, a third figure is that of one node with a thread on each
core. Alternating rounds. Needs root (network namespaces) and two cores."""
import argparse
import json
import os
import pathlib
import statistics
import sys
import tempfile
import threading
import time
import urllib.request

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parent.parent / "tests" / "nodes"))
import hosts as namespaces  # noqa: E402

PORT = 8000


def ask_all(n_streams, n_tokens):
    """Seconds until n_streams requests, all at once, have their n_tokens. Not streamed: the client runs on the same two cores and would
    take its part of them for every token."""
    failures = []

    def ask(index):
        body = {"model": "m", "prompt": list(range(300 + index, 316 + index)), "max_tokens": n_tokens, "temperature": 0, "ignore_eos": True}
        request = urllib.request.Request(f"http://127.0.0.1:{PORT}/v1/completions", json.dumps(body).encode(), {"Content-Type": "application/json"})
        try:
            urllib.request.urlopen(request, timeout=600).read()
        except OSError as error:
            failures.append(error)

    threads = [threading.Thread(target=ask, args=(index,)) for index in range(n_streams)]
    start = time.monotonic()
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    if failures:
        raise SystemExit(f"{len(failures)} requests failed, the first with: {failures[0]}")
    return time.monotonic() - start


def decode_rate(n_streams, n_tokens):
    """Tokens per second of decode: long answers less short ones, so that prompts and connections do not count."""
    short_s, long_s = (ask_all(n_streams, n) for n in (8, 8 + n_tokens))
    return n_streams * n_tokens / (long_s - short_s)


def serve(host, cores, n_threads, args, *more):
    env = {k: v for k, v in os.environ.items() if not k.startswith(("SHOAL_", "RAY_"))}
    env.update(HOME=host.hosts.scratch, SHOAL_LAUNCH_SECRET="a" * 64)
    return host.spawn("taskset", "-c", cores, args.shoal, "serve", args.model, "--served-model-name", "m", "--host", "127.0.0.1", "--port",
                      str(PORT), "--threads", str(n_threads), "--max-model-len", "1024", "--max-num-seqs", str(max(4, args.streams)), *more, env=env)


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


def measure(args, host, processes):
    wait_ready(host, processes[0])
    host.call(decode_rate, args.streams, 8)
    rate = host.call(decode_rate, args.streams, args.tokens)
    processes[0].kill(15)  # the headless one ends with it
    for process in processes:
        process.wait(10)
    return rate


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("shoal", type=os.path.abspath)
    parser.add_argument("model", type=os.path.abspath)
    parser.add_argument("--split", choices=["tp", "pp"], default="tp")
    parser.add_argument("--streams", type=int, default=1)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--tokens", type=int, default=128)
    args = parser.parse_args()
    ones, twos, shared = [], [], []
    with tempfile.TemporaryDirectory() as logs, namespaces.Hosts(2, logs) as hosts:
        split = [f"-{args.split}", "2", "--nnodes", "2", "--master-addr", hosts[0].ip, "--node-rank"]
        for _ in range(args.rounds):
            ones.append(measure(args, hosts[0], [serve(hosts[0], "0", 1, args)]))
            pair = [serve(hosts[0], "0", 1, args, *split, "0"), serve(hosts[1], "1", 1, args, *split, "1", "--headless")]
            twos.append(measure(args, hosts[0], pair))
            shared.append(measure(args, hosts[0], [serve(hosts[0], "0,1", 2, args)]))
            print(f"one core {ones[-1]:.1f} tok/s, two nodes {twos[-1]:.1f} ({twos[-1] / ones[-1]:.2f} x), "
                  f"two threads {shared[-1]:.1f} ({shared[-1] / ones[-1]:.2f} x)", flush=True)
    two, limit = (statistics.median(r / o for o, r in zip(ones, rates)) for rates in (twos, shared))
    print(f"medians: one core {statistics.median(ones):.1f} tok/s, two nodes {two:.2f} x, two threads {limit:.2f} x")


main()
