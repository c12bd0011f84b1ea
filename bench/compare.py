#!/usr/bin/env python3
"""Decode and prefill of shoal beside llama.cpp's llama-bench and llama-batched-bench: same files, same threads, alternating runs.
usage: compare.py [--config CONFIG_JSON] [--types Q8_0,Q4_0,BF16] [--threads N] [--rounds N] [--layers N] [--batches 1,4,16] [--build DIR]
Makes the files (random weights of the geometry) and builds the peer by itself; see make-gguf.py, fetch-llama-cpp.sh."""
import argparse
import json
import pathlib
import statistics
import subprocess
import sys

HERE = pathlib.Path(__file__).resolve().parent
ROOT = HERE.parent


def output(*command):
    return subprocess.run([str(c) for c in command], check=True, stdout=subprocess.PIPE, text=True).stdout


def make_file(args, kind):
    name = pathlib.Path(args.config).name.replace("_config.json", "")
    path = args.build / "bench" / f"{name}-{kind.lower()}{f'-{args.layers}l' if args.layers else ''}.gguf"
    if not path.exists():
        path.parent.mkdir(parents=True, exist_ok=True)
        venv = args.build / "venv-gguf"
        if not (venv / "bin" / "python").exists():
            subprocess.run([sys.executable, "-m", "venv", venv], check=True)
            subprocess.run([venv / "bin" / "pip", "-q", "install", "numpy", "gguf"], check=True)
        layers = ["--layers", args.layers] if args.layers else []
        output(venv / "bin" / "python", HERE / "make-gguf.py", args.config, kind, path, *layers)
    return path


def run_peer(args, peer, path):
    rows = json.loads(output(peer / "llama-bench", "-m", path, "-p", args.prefill, "-n", 0, "-t", args.threads, "-r", 1, "-o", "json"))
    speeds = {"prefill": rows[0]["avg_ts"]}
    if args.batches == [1]:
        rows = json.loads(output(peer / "llama-bench", "-m", path, "-p", 0, "-n", args.decode, "-t", args.threads, "-r", 1, "-o", "json"))
        speeds[1] = rows[0]["avg_ts"]
        return speeds
    context = max(args.batches) * (args.decode + 32)
    lines = output(peer / "llama-batched-bench", "-m", path, "-c", context, "-b", 512, "-t", args.threads, "-npp", 16, "-ntg", args.decode, "-npl",
                   ",".join(map(str, args.batches)), "--output-format", "jsonl")
    rows = [json.loads(line) for line in lines.splitlines() if line.startswith("{")]  # there are others
    speeds.update({row["pl"]: row["speed_tg"] for row in rows})
    return speeds


def run_shoal(args, path):
    lines = output(args.build / "bench" / "model_bench", path, "--threads", args.threads, "--prefill", args.prefill, "--decode", args.decode,
                   "--batch", ",".join(map(str, args.batches)), "--json")
    prefill, *rows = map(json.loads, lines.splitlines())
    return {"prefill": prefill["prefill_tok_s"], **{row["batch"]: row["decode_tok_s"] for row in rows}, "rows": {row["batch"]: row for row in rows}}


def print_row(kind, what, rounds, key):
    """The median of each side, and of the ratios of the rounds; for decode also what it reads."""
    speeds = [statistics.median(r[side][key] for r in rounds) for side in (0, 1)]
    ratio = statistics.median(r[1][key] / r[0][key] for r in rounds)
    memory = ""
    if key != "prefill":
        rows = [r[1]["rows"][key] for r in rounds]
        megabytes, limit, share = (statistics.median(row[k] for row in rows) for k in ("mb_per_step", "bandwidth_gb_s", "share"))
        memory = f"{megabytes:.0f} | {share * limit:.1f} of {limit:.1f} | {share:.0%}"
    print(f"| {kind} | {what} | {speeds[0]:.1f} | {speeds[1]:.1f} | {ratio:.2f} | {memory or ' | | '} |", flush=True)


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--config", default=ROOT / "tests/data/configs/Qwen--Qwen3-0.6B_config.json")
    parser.add_argument("--types", default="Q8_0,Q4_0,BF16")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--layers", type=int)
    parser.add_argument("--prefill", type=int, default=512)
    parser.add_argument("--decode", type=int, default=128, help="tokens of each sequence")
    parser.add_argument("--batches", default="1", help="sequences that decode at once, such as 1,4,16")
    parser.add_argument("--build", type=pathlib.Path, default=ROOT / "build")
    args = parser.parse_args()
    args.batches = [int(n) for n in args.batches.split(",")]
    peer = pathlib.Path(output(HERE / "fetch-llama-cpp.sh", args.build / "peers" / "llama.cpp").strip())
    cpu = next(line.split(":", 1)[1].strip() for line in open("/proc/cpuinfo") if line.startswith("model name"))
    print(f"{cpu}, {args.threads} threads, {pathlib.Path(args.config).name}{f', {args.layers} layers' if args.layers else ''}, tok/s, "
          f"medians of {args.rounds} alternating rounds\n")
    print("| weights | work | llama.cpp | shoal | ratio | MB/step | GB/s read, of limit | share |")
    print("| --- | --- | --- | --- | --- | --- | --- | --- |")
    for kind in args.types.split(","):
        path = make_file(args, kind)
        rounds = [(run_peer(args, peer, path), run_shoal(args, path)) for _ in range(args.rounds)]
        print_row(kind, f"prefill {args.prefill}", rounds, "prefill")
        for n in args.batches:
            print_row(kind, f"decode, {n} at once" if n > 1 else "decode", rounds, n)


if __name__ == "__main__":
    main()
