"""The two commands of the guide for Qwen3-235B-A22B, over two hosts with a real Ray cluster: 16 ranks, expert parallelism, the true
geometry with two layers of random weights. Both splits are the same model, so they give the same tokens.

    test_flagship.py PATH_OF_SHOAL PATH_OF_VENV_WITH_RAY
"""

import os
import shutil
import signal
import sys
import tempfile
import time

from hosts import Hosts, RayCluster
from serving import DATA, MODEL, Serve, wait_gone

BINARY, VENV = os.path.abspath(sys.argv[1]), sys.argv[2]
# As in the guide, but for the model's name, and with what makes it fit this machine.
GUIDE = (
    "--distributed-executor-backend ray --enable-expert-parallel --seed 1024 --max-model-len 8192 --max-num-seqs 25 --trust-remote-code "
    "--gpu-memory-utilization 0.9"
).split()
SMALL = ["--load-format", "dummy", "--quantization", "int4", "--hf-overrides", '{"num_hidden_layers": 2}', "--kv-cache-memory-bytes", "1GiB"]
SPLITS = (["--pipeline-parallel-size", "2", "--tensor-parallel-size", "8"], ["--tensor-parallel-size", "16"])


def model_folder(parent):
    """The true configuration with a small tokenizer: of random weights no text is expected."""
    folder = os.path.join(parent, "Qwen3-235B-A22B")
    os.mkdir(folder)
    shutil.copy(os.path.join(DATA, "configs", "Qwen--Qwen3-235B-A22B_config.json"), os.path.join(folder, "config.json"))
    for name in ("tokenizer.json", "tokenizer_config.json"):
        shutil.copy(os.path.join(MODEL, name), folder)
    return folder


def ask(server):
    body = {"model": "qwen", "prompt": "tell me how to sleep well", "max_tokens": 12, "temperature": 0, "return_token_ids": True, "ignore_eos": True}
    status, answer = server.request("/v1/completions", body, timeout=120)
    assert status == 200, (status, answer, server.process.output())
    assert answer["model"] == "qwen" and answer["usage"]["completion_tokens"] == 12, answer
    return answer["choices"][0]["token_ids"]


def main():
    tokens = []
    # The hosts see this machine's files, but not its /tmp.
    with tempfile.TemporaryDirectory(dir=os.path.dirname(BINARY)) as parent, tempfile.TemporaryDirectory() as logs, Hosts(2, logs) as hosts:
        folder = model_folder(parent)
        ray = RayCluster(hosts, [8, 8], VENV)
        for split in SPLITS:
            begin = time.monotonic()
            server = Serve(hosts[0], BINARY, *GUIDE, "--ray-address", f"{hosts[0].ip}:8265", *split, *SMALL, model=folder, name="qwen")
            server.wait_ready(240)
            ready_s = time.monotonic() - begin
            tokens.append(ask(server))
            assert ray.cpus_used()[1] == 16
            assert "on 16 rank(s)" in server.process.output() and "ranks 8 to 15" in server.process.output(), server.process.output()
            assert server.stop(signal.SIGTERM) == 0, server.process.output()
            wait_gone(hosts, os.path.basename(BINARY), 5)
            print(f"{' '.join(split)}: ready in {ready_s:.0f} s, tokens {tokens[-1]}", flush=True)
    assert tokens[0] == tokens[1], tokens


main()
