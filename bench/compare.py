#!/usr/bin/env python3
"""Decode and prefill of shoal beside llama.cpp's llama-bench: same files, same threads, alternating runs.
usage: compare.py [--config CONFIG_JSON] [--types Q8_0,Q4_0,BF16] [--threads N] [--rounds N] [--layers N] [--build DIR]
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
    rows = json.loads(output(peer / "llama-bench", "-m", path, "-p", args.prefill, "-n", args.decode, "-t", args.threads, "-r", 1, "-o", "json"))
    return {("prefill" if r["n_gen"] == 0 else "decode"): r["avg_ts"] for r in rows}


def run_shoal(args, path):
    row = json.loads(output(args.build / "bench" / "model_bench", path, "--threads", args.threads, "--prefill", args.prefill, "--decode",
                            args.decode, "--json"))
    return {"prefill": row["prefill_tok_s"], "decode": row["decode_tok_s"], "mb": row["mb_per_token"], "bandwidth": row["bandwidth_gb_s"],
            "share": row["share"]}


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--config", default=ROOT / "tests/data/configs/Qwen--Qwen3-0.6B_config.json")
    parser.add_argument("--types", default="Q8_0,Q4_0,BF16")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--layers", type=int)
    parser.add_argument("--prefill", type=int, default=512)
    parser.add_argument("--decode", type=int, default=128)
    parser.add_argument("--build", type=pathlib.Path, default=ROOT / "build")
    args = parser.parse_args()
    peer = pathlib.Path(output(HERE / "fetch-llama-cpp.sh", args.build / "peers" / "llama.cpp").strip())
    cpu = next(line.split(":", 1)[1].strip() for line in open("/proc/cpuinfo") if line.startswith("model name"))
    print(f"{cpu}, {args.threads} threads, {pathlib.Path(args.config).name}, medians of {args.rounds} alternating rounds\n")
    print("| weights | prefill: llama.cpp | shoal | ratio | decode: llama.cpp | shoal | ratio | MB/token | GB/s read, of limit | share |")
    print("| --- | --- | --- | --- | --- | --- | --- | --- | --- | --- |")
    for kind in args.types.split(","):
        path = make_file(args, kind)
        rounds = [(run_peer(args, peer, path), run_shoal(args, path)) for _ in range(args.rounds)]
        mid = lambda side, key: statistics.median(r[side][key] for r in rounds)
        ratio = lambda key: statistics.median(r[1][key] / r[0][key] for r in rounds)
        rate = mid(1, "decode") * mid(1, "mb") / 1000
        print(f"| {kind} | {mid(0, 'prefill'):.1f} | {mid(1, 'prefill'):.1f} | {ratio('prefill'):.2f} | {mid(0, 'decode'):.1f} | "
              f"{mid(1, 'decode'):.1f} | {ratio('decode'):.2f} | {mid(1, 'mb'):.0f} | {rate:.1f} of {mid(1, 'bandwidth'):.1f} | "
              f"{mid(1, 'share'):.0%} |", flush=True)


main()
