#!/usr/bin/env python3
"""shoal serve beside llama-server and vllm serve: many users at once, the same geometry, threads and prompts, one client for all (`shoal bench serve`),
alternating runs. usage: serving.py [--with-vllm] [--types BF16,Q8_0,Q4_0] [--streams 1,4,8,16] [--rounds N] [--input-len N] [--output-len N]
    [--requests-per-stream N] [--threads N] [--build DIR] [--keep DIR] …
Makes the files and installs the peers by itself (make-gguf.py, fetch-llama-cpp.sh, fetch-vllm.sh: that one is several GB), prints a table and keeps every run's JSON.

The servers of one number format run side by side, peers stopped while another is measured; that all others
are idle is checked."""
import argparse
import json
import os
import pathlib
import resource
import shutil
import signal
import socket
import statistics
import subprocess
import sys
import time
import urllib.request

from compare import HERE, ROOT, make_file, output

IDLE_SHARE = 0.02  # of one core, that a server may use while another is measured
CLOCK = os.sysconf("SC_CLK_TCK")


def free_port():
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        return s.getsockname()[1]


class Server:
    """A server under its name, ready to answer on self.port."""

    def __init__(self, name, command, log, env=None, timeout_s=300):
        self.name, self.port, self.log = name, free_port(), log
        self.command = [str(c).replace("{port}", str(self.port)) for c in command]
        with open(log, "w") as out:
            self.process = subprocess.Popen(self.command, stdout=out, stderr=subprocess.STDOUT, start_new_session=True, env={**os.environ, **(env or {})})
        until = time.monotonic() + timeout_s
        while not self.answers():
            if self.process.poll() is not None or time.monotonic() > until:
                tail = "\n".join(log.read_text(errors="replace").splitlines()[-15:])
                self.stop()
                raise SystemExit(f"{name} {'has ended' if self.process.poll() is not None else f'is not ready after {timeout_s} s'}; {log} ends:\n{tail}")
            time.sleep(0.2)

    def answers(self):
        try:
            return urllib.request.urlopen(f"http://127.0.0.1:{self.port}/health", timeout=2).status == 200
        except OSError:
            return False

    def processes(self):
        """(process, its fields behind the name in /proc/PID/stat) for all processes of the server's session."""
        for stat in pathlib.Path("/proc").glob("[0-9]*/stat"):
            try:
                fields = stat.read_text().rpartition(")")[2].split()
            except OSError:
                continue
            if int(fields[3]) == self.process.pid:
                yield int(stat.parent.name), fields

    def cpu_s(self):
        """CPU seconds so far."""
        return sum(int(fields[11]) + int(fields[12]) for _, fields in self.processes()) / CLOCK

    def rest(self, is_resting):
        """vLLM spins when it has nothing to do, so that peers are stopped while another is measured. shoal's nodes watch each other's
        signs of life, and it sleeps when idle: it stays as it is."""
        if self.name != "shoal":
            for pid, _ in list(self.processes()):
                os.kill(pid, signal.SIGSTOP if is_resting else signal.SIGCONT)

    def stop(self):
        self.rest(False)
        for number, patience_s in ((signal.SIGTERM, 20), (signal.SIGKILL, 10)):
            try:
                os.killpg(self.process.pid, number)
                self.process.wait(patience_s)
            except (ProcessLookupError, subprocess.TimeoutExpired):
                continue
        self.process.wait()


def shoal_command(args, model):
    blocks = args.most_streams * (args.context // 16 + 1)
    return [args.shoal, "serve", model, "--served-model-name", "m", "--host", "127.0.0.1", "--port", "{port}", "--threads", args.threads,
            "--max-num-seqs", args.most_streams, "--max-model-len", args.context, "--num-gpu-blocks-override", blocks, *args.shoal_args.split()]


def llama_command(args, model, programs):
    # As many slots as streams, each with room for the whole; prompts never repeat, so a cache of them could only cost.
    return [programs / "llama-server", "-m", model, "--alias", "m", "--host", "127.0.0.1", "--port", "{port}", "-t", args.threads, "-tb", args.threads,
            "-np", args.most_streams, "-c", args.most_streams * args.context, "--cont-batching", "--cache-ram", 0, "-fit", "off", "--no-webui",
            *args.llama_args.split()]


def vllm_command(args, folder):
    return [args.build / "venv-vllm/bin/vllm", "serve", folder, "--load-format", "dummy", "--served-model-name", "m", "--host", "127.0.0.1", "--port", "{port}",
            "--dtype", args.vllm_dtype, "--max-model-len", args.context, "--max-num-seqs", args.most_streams, *args.vllm_args.split()]


def make_vllm_folder(args):
    """The geometry as a folder, with any tokenizer: prompts go as ids. vLLM makes the weights itself."""
    folder = args.build / "bench" / "vllm-model"
    tiny = ROOT / "tests/data/models/tiny-qwen3"
    folder.mkdir(parents=True, exist_ok=True)
    shutil.copy(args.config, folder / "config.json")
    if args.layers:
        config = json.loads(pathlib.Path(args.config).read_text())
        config["num_hidden_layers"] = args.layers
        (folder / "config.json").write_text(json.dumps(config))
    for name in ("tokenizer.json", "tokenizer_config.json"):
        shutil.copy(tiny / name, folder / name)
    return folder


def run_client(args, server, streams, seed, n_requests, output_len, path):
    """One run of the client: vLLM's result keys, and the share of a core that the client took."""
    before, start = resource.getrusage(resource.RUSAGE_CHILDREN), time.monotonic()
    done = subprocess.run([str(c) for c in (args.shoal, "bench", "serve", "--port", server.port, "--model", "m", "--num-prompts", n_requests,
                                            "--max-concurrency", streams, "--random-input-len", args.input_len, "--random-output-len", output_len,
                                            "--temperature", 0, "--seed", seed, "--metric-percentiles", "50,90,99", "--percentile-metrics", "ttft,tpot,itl,e2el",
                                            "--disable-tqdm", "--save-result", "--result-filename", path, "--label", server.name)],
                          stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    if done.returncode != 0:
        raise SystemExit(f"{server.name} with {streams} streams:\n{done.stdout}")
    result = json.loads(path.read_text())
    if result["failed"] > 0 or result["total_output_tokens"] != n_requests * output_len:
        raise SystemExit(f"{server.name} with {streams} streams: {result['failed']} requests failed, {result['total_output_tokens']} tokens came instead of "
                         f"{n_requests * output_len}:\n{done.stdout}")
    cpu_s = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    result["client_cpu_share"] = cpu_s / (time.monotonic() - start)
    return result


def measure(args, servers, kind, row, streams, round_number):
    """Each server in turn, the first one another in each round."""
    turn = round_number % len(servers)
    for server in servers[turn:] + servers[:turn]:
        path = args.keep / f"{kind}-{streams}-{server.name}-{round_number}.json"
        for other in servers:
            other.rest(other is not server)
        idle_before = {other.name: other.cpu_s() for other in servers}
        start = time.monotonic()
        result = run_client(args, server, streams, 1000 * round_number + streams, streams * args.requests_per_stream, args.output_len, path)
        seconds = time.monotonic() - start
        for other in servers:
            share = (other.cpu_s() - idle_before[other.name]) / seconds
            if other is not server and share > IDLE_SHARE:
                print(f"warning: {other.name} took {share:.1%} of a core while {server.name} was measured", file=sys.stderr)
        path.write_text(json.dumps(result, indent=1))
        row.setdefault(server.name, []).append(result)
        print(f"{kind}, {streams} streams, round {round_number + 1}: {server.name} {result['output_throughput']:.1f} tok/s, first token after "
              f"{result['mean_ttft_ms']:.0f} ms, client {result['client_cpu_share']:.1%} of a core", file=sys.stderr, flush=True)


def start_servers(args, kind, programs):
    model = make_file(args, kind)
    servers = []
    try:
        servers.append(Server("shoal", shoal_command(args, model), args.keep / f"{kind}-shoal.log"))
        servers.append(Server("llama-server", llama_command(args, model, programs), args.keep / f"{kind}-llama-server.log"))
        if args.with_vllm and kind == "BF16":
            env = {"VLLM_CPU_KVCACHE_SPACE": "1", "VLLM_CPU_NUM_OF_RESERVED_CPU": "0", "HF_HUB_OFFLINE": "1", "VLLM_NO_USAGE_STATS": "1",
                   "OMP_NUM_THREADS": str(args.threads), "PATH": f"{args.build / 'venv-vllm/bin'}:{os.environ['PATH']}"}
            servers.append(Server("vllm", vllm_command(args, make_vllm_folder(args)), args.keep / f"{kind}-vllm.log", env, timeout_s=900))
    except BaseException:
        for server in servers:
            server.stop()
        raise
    return servers


def print_rows(kind, streams, row):
    middle = lambda name, key: statistics.median(r[key] for r in row[name])
    for name in row:
        ratio = statistics.median(own["output_throughput"] / other["output_throughput"] for own, other in zip(row["shoal"], row[name]))
        print(f"| {kind} | {streams} | {name} | {middle(name, 'output_throughput'):.1f} | {'' if name == 'shoal' else f'{ratio:.2f}'} | "
              f"{middle(name, 'mean_ttft_ms'):.0f} | {middle(name, 'p99_ttft_ms'):.0f} | {middle(name, 'mean_tpot_ms'):.1f} | "
              f"{middle(name, 'p99_itl_ms'):.1f} |", flush=True)


def parse_args():
    cpu_flags = next(line for line in open("/proc/cpuinfo") if line.startswith("flags"))
    parser = argparse.ArgumentParser(formatter_class=argparse.ArgumentDefaultsHelpFormatter)
    parser.add_argument("--config", default=ROOT / "tests/data/configs/Qwen--Qwen3-0.6B_config.json")
    parser.add_argument("--types", default="BF16,Q8_0,Q4_0")
    parser.add_argument("--streams", default="1,4,8,16")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--input-len", type=int, default=128)
    parser.add_argument("--output-len", type=int, default=128)
    parser.add_argument("--requests-per-stream", type=int, default=2)
    parser.add_argument("--threads", type=int, default=len(os.sched_getaffinity(0)))
    parser.add_argument("--layers", type=int, help="of the geometry; all by default")
    parser.add_argument("--with-vllm", action="store_true", help="beside the BF16 rows")
    parser.add_argument("--vllm-dtype", default="bfloat16" if "avx512" in cpu_flags else "float32", help="its kernels for bfloat16 need AVX-512")
    parser.add_argument("--shoal-args", default="", help="further flags of shoal serve")
    parser.add_argument("--llama-args", default="", help="further flags of llama-server")
    parser.add_argument("--vllm-args", default="", help="further flags of vllm serve")
    parser.add_argument("--build", type=pathlib.Path, default=ROOT / "build")
    parser.add_argument("--shoal", type=pathlib.Path, help="the program; BUILD/shoal by default")
    parser.add_argument("--keep", type=pathlib.Path, help="folder for logs and JSON; BUILD/bench/serving-TIME by default")
    args = parser.parse_args()
    args.build = args.build.resolve()
    args.shoal = (args.shoal or args.build / "shoal").resolve()
    args.keep = (args.keep or args.build / "bench" / time.strftime("serving-%Y%m%d-%H%M%S")).resolve()
    args.streams = [int(n) for n in args.streams.split(",")]
    args.most_streams = max(args.streams)
    args.context = (args.input_len + args.output_len + 16 + 255) // 256 * 256  # llama.cpp rounds up to this
    return args


def main():
    args = parse_args()
    args.keep.mkdir(parents=True, exist_ok=True)
    programs = pathlib.Path(output(HERE / "fetch-llama-cpp.sh", args.build / "peers" / "llama.cpp").strip())
    if args.with_vllm:
        output(HERE / "fetch-vllm.sh", args.build / "venv-vllm")
    cpu = next(line.split(":", 1)[1].strip() for line in open("/proc/cpuinfo") if line.startswith("model name"))
    print(f"{cpu}, {args.threads} threads, {pathlib.Path(args.config).name.replace('_config.json', '')}{f' with {args.layers} layers' if args.layers else ''}, "
          f"{args.input_len} tokens in and {args.output_len} out, {args.requests_per_stream} requests per stream, medians of {args.rounds} alternating rounds"
          f"{f', vLLM computes in {args.vllm_dtype}' if args.with_vllm else ''}\n")
    print("| weights | streams | server | output tok/s | shoal is × | TTFT mean ms | TTFT p99 ms | TPOT mean ms | ITL p99 ms |")
    print("| --- | --- | --- | --- | --- | --- | --- | --- | --- |", flush=True)
    kept = {"cpu": cpu, "args": {k: str(v) for k, v in vars(args).items()}, "rows": []}
    for kind in args.types.split(","):
        servers = start_servers(args, kind, programs)
        rows = {streams: {} for streams in args.streams}
        try:
            for server in servers:  # page in the weights, start the threads
                run_client(args, server, args.most_streams, 0, args.most_streams, 8, args.keep / "warm-up.json")
            for round_number in range(args.rounds):
                for streams in args.streams:
                    measure(args, servers, kind, rows[streams], streams, round_number)
        finally:
            for server in servers:
                server.stop()
        for streams, row in rows.items():
            print_rows(kind, streams, row)
            kept["rows"].append({"weights": kind, "streams": streams, "runs": row})
        (args.keep / "all.json").write_text(json.dumps(kept, indent=1))
    print(f"\nKept in {args.keep}", file=sys.stderr)


main()
