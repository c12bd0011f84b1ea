#!/usr/bin/env python3
"""Decode on one node of one core, and on two such nodes over a veth link: one sequence with --tensor-parallel-size 2, or many at once with
--pipeline-parallel-size 2. Two cores of one machine share its memory bus, its clock and, where it is rented, the attention of its host: so
two more figures are those of one node with a thread on each core, and of two nodes that serve apart, each on its own, at the same time.
Half of the latter is what one node does while its neighbour is as busy, as both are when they serve together. All servers stay up and are
asked in turn. The last line tells each at its best: what else a machine does only ever takes time, so that the highest rates are nearest
to what a quiet one gives. Other options go to shoal serve. Needs root (network namespaces) and two cores."""
import argparse
import concurrent.futures
import http.client
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

WARM = 4  # tokens of each stream before the clock runs
SETUPS = {  # name: its servers, as (host, port)
    "one node": [(0, 8000)],
    "two together": [(0, 8001)],
    "two threads": [(0, 8002)],
    "two apart": [(0, 8000), (1, 8003)],
}


def metric(port, name):
    text = urllib.request.urlopen(f"http://127.0.0.1:{port}/metrics", timeout=60).read().decode()
    return sum(float(line.rsplit(" ", 1)[1]) for line in text.splitlines() if line.startswith(name + "{"))


def wait_until(holds):
    for _ in range(1200):
        if holds():
            return
        time.sleep(0.05)
    raise SystemExit("a server does not do what it was asked for, 60 s after that")


def stream_begin(port, index):
    """An open request for more tokens than will be waited for. Not streamed: the client runs on the same two cores and would take its part
    of them for every token."""
    body = {"model": "m", "prompt": [300 + index, 301], "max_tokens": 1000, "temperature": 0, "ignore_eos": True}
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=60)
    connection.request("POST", "/v1/completions", json.dumps(body), {"Content-Type": "application/json"})
    return connection


def decode_rate(port, n_streams, seconds):
    """Tokens per second of n_streams that decode together."""

    def count():
        return metric(port, "vllm:generation_tokens_total")

    before = count()
    connections = [stream_begin(port, index) for index in range(n_streams)]
    wait_until(lambda: count() >= before + n_streams * WARM)
    n_begin, begin_s = count(), time.monotonic()
    time.sleep(seconds)
    n_end, end_s = count(), time.monotonic()
    if metric(port, "vllm:num_requests_running") != n_streams:
        raise SystemExit("an answer ended while it was measured: fewer --seconds are needed")
    for connection in connections:
        connection.close()
    wait_until(lambda: metric(port, "vllm:num_requests_running") == 0)
    return (n_end - n_begin) / (end_s - begin_s)


def serve(args, host, port, cores, n_threads, *more):
    env = {k: v for k, v in os.environ.items() if not k.startswith(("SHOAL_", "RAY_"))}
    env.update(HOME=host.hosts.scratch, SHOAL_LAUNCH_SECRET="a" * 64)
    return host.spawn("taskset", "-c", cores, args.shoal, "serve", args.model, "--served-model-name", "m", "--host", "127.0.0.1", "--port",
                      str(port), "--threads", str(n_threads), "--max-model-len", "1024", "--max-num-seqs", str(max(4, args.streams)),
                      "--kv-cache-memory-bytes", "1073741824", *args.serve_args, *more, env=env)


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


def setup_rate(hosts, servers, *what):
    """The sum of decode_rate of servers that are asked at the same time."""
    with concurrent.futures.ThreadPoolExecutor() as pool:
        return sum(pool.map(lambda server: hosts[server[0]].call(decode_rate, server[1], *what), servers))


def relative(rates):
    """To one node, and last: two that serve together to one whose neighbour is as busy."""
    ratios = {name: rate / rates["one node"] for name, rate in rates.items()}
    return ratios | {"two together, of one beside a busy one": 2 * rates["two together"] / rates["two apart"]}


def show(title, ratios, rates=()):
    texts = [f"{name} {rates[name]:.1f} tok/s ({ratio:.2f} x)" if name in rates else f"{name} {ratio:.2f} x" for name, ratio in ratios.items()]
    print(title + ", ".join(texts), flush=True)


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("shoal", type=os.path.abspath)
    parser.add_argument("model", type=os.path.abspath)
    parser.add_argument("--split", choices=["tp", "pp"], default="tp")
    parser.add_argument("--streams", type=int, default=1)
    parser.add_argument("--rounds", type=int, default=12)
    parser.add_argument("--seconds", type=float, default=6, help="for which each is measured in a round")
    args, args.serve_args = parser.parse_known_args()
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
            hosts[host].call(decode_rate, port, args.streams, 0)
        rounds = []
        for _ in range(args.rounds):
            rounds.append({name: setup_rate(hosts, servers, args.streams, args.seconds) for name, servers in SETUPS.items()})
            show("", relative(rounds[-1]), rounds[-1])
    ratios = [relative(rates) for rates in rounds]
    show("medians of the ratios: ", {name: statistics.median(column[name] for column in ratios) for name in ratios[0]})
    rates = {name: max(rates[name] for rates in rounds) for name in SETUPS}
    show("at their best: ", relative(rates), rates)


main()
