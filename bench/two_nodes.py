#!/usr/bin/env python3
"""Decode on one node of one core, and on two such nodes over a veth link: one sequence with --tensor-parallel-size 2, or many at once with
--pipeline-parallel-size 2. Two cores of one machine share its memory bus, its clock and, where it is rented, the attention of its host: so
two more figures are those of one node with a thread on each core, and of two nodes that serve apart, each on its own, at the same time.
Half of the latter is what one node does while its neighbour is as busy, as both are when they serve together. All servers stay up and are
asked in turn. The last line tells the rate of each at its best: what else a machine does only ever adds time, so that the shortest times
are nearest to what a quiet one takes. Needs root (network namespaces) and two cores."""
import argparse
import concurrent.futures
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

SHORT = 8  # tokens
SETUPS = {  # name: its servers, as (host, port)
    "one node": [(0, 8000)],
    "two together": [(0, 8001)],
    "two threads": [(0, 8002)],
    "two apart": [(0, 8000), (1, 8003)],
}


def ask_all(port, n_streams, n_tokens):
    """Seconds until n_streams requests, all at once, have their n_tokens. Not streamed: the client runs on the same two cores and would
    take its part of them for every token."""
    failures = []

    def ask(index):
        body = {"model": "m", "prompt": list(range(300 + index, 316 + index)), "max_tokens": n_tokens, "temperature": 0, "ignore_eos": True}
        request = urllib.request.Request(f"http://127.0.0.1:{port}/v1/completions", json.dumps(body).encode(), {"Content-Type": "application/json"})
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


def serve(args, host, port, cores, n_threads, *more):
    env = {k: v for k, v in os.environ.items() if not k.startswith(("SHOAL_", "RAY_"))}
    env.update(HOME=host.hosts.scratch, SHOAL_LAUNCH_SECRET="a" * 64)
    return host.spawn("taskset", "-c", cores, args.shoal, "serve", args.model, "--served-model-name", "m", "--host", "127.0.0.1", "--port",
                      str(port), "--threads", str(n_threads), "--max-model-len", "1024", "--max-num-seqs", str(max(4, args.streams)),
                      "--kv-cache-memory-bytes", "1073741824", *more, env=env)


def wait_ready(host, port, process):
    def ask():
        try:
            return urllib.request.urlopen(f"http://127.0.0.1:{port}/health", timeout=5).status
        except OSError:
            return 0

    for _ in range(600):
        if not process.running():
            raise SystemExit(process.output())
        if host.call(ask) == 200:
            return
        time.sleep(0.1)
    raise SystemExit("the server is not ready after 60 s:\n" + process.output())


def ask_setup(hosts, servers, n_streams, n_tokens):
    """ask_all of servers that are asked at the same time."""
    with concurrent.futures.ThreadPoolExecutor() as pool:
        return list(pool.map(lambda server: hosts[server[0]].call(ask_all, server[1], n_streams, n_tokens), servers))


def decode_rate(args, short_s, long_s):
    """Tokens per second of decode, of all servers: long answers less short ones, so that prompts and connections do not count."""
    return sum(args.streams * args.tokens / (long - short) for short, long in zip(short_s, long_s))


def relative(rates):
    """To one node, and last: two that serve together to one whose neighbour is as busy."""
    ratios = {name: rate / rates["one node"] for name, rate in rates.items()}
    return ratios | {"two together, of one beside a busy one": 2 * rates["two together"] / rates["two apart"]}


def show(title, ratios, rates={}):
    texts = [f"{name} {rates[name]:.1f} tok/s ({ratio:.2f} x)" if name in rates else f"{name} {ratio:.2f} x" for name, ratio in ratios.items()]
    print(title + ", ".join(texts), flush=True)


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("shoal", type=os.path.abspath)
    parser.add_argument("model", type=os.path.abspath)
    parser.add_argument("--split", choices=["tp", "pp"], default="tp")
    parser.add_argument("--streams", type=int, default=1)
    parser.add_argument("--rounds", type=int, default=12)
    parser.add_argument("--tokens", type=int, default=32)
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as logs, namespaces.Hosts(2, logs) as hosts:
        split = [f"-{args.split}", "2", "--nnodes", "2", "--master-addr", hosts[0].ip, "--node-rank"]
        processes = {
            (0, 8000): serve(args, hosts[0], 8000, "0", 1),
            (0, 8001): serve(args, hosts[0], 8001, "0", 1, *split, "0"),
            (0, 8002): serve(args, hosts[0], 8002, "0,1", 2),
            (1, 8003): serve(args, hosts[1], 8003, "1", 1),
        }
        serve(args, hosts[1], 8001, "1", 1, *split, "1", "--headless")
        for (host, port), process in processes.items():
            wait_ready(hosts[host], port, process)
            hosts[host].call(ask_all, port, args.streams, SHORT)
        best, rounds = {}, []
        for _ in range(args.rounds):
            rates = {}
            for name, servers in SETUPS.items():
                times = [ask_setup(hosts, servers, args.streams, n) for n in (SHORT, SHORT + args.tokens)]
                rates[name] = decode_rate(args, *times)
                best[name] = [list(map(min, *pair)) for pair in zip(best.get(name, times), times)]
            rounds.append(relative(rates))
            show("", rounds[-1], rates)
    show("medians of the ratios: ", {name: statistics.median(ratios[name] for ratios in rounds) for name in rounds[0]})
    rates = {name: decode_rate(args, *times) for name, times in best.items()}
    show("at their best: ", relative(rates), rates)


main()
