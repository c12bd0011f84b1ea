"""shoal over two hosts with a real Ray cluster, and by hand: the same tokens for every split, CPUs reserved while it serves,
and nothing left when anything ends.

    test_ray.py PATH_OF_SHOAL PATH_OF_VENV_WITH_RAY [NAME …]     (tests to run; all without a name)
"""

import json
import os
import shutil
import signal
import sys
import tempfile
import time

from hosts import Hosts, HostsError, RayCluster
from serving import DATA, MODEL, Serve, wait_gone

BINARY, VENV, WANTED = os.path.abspath(sys.argv[1]), sys.argv[2], sys.argv[3:]
NAME = os.path.basename(BINARY)
RAY = ["--distributed-executor-backend", "ray", "--ray-address", "10.77.0.1:8265", "--threads", "1"]


def wait_for(what, condition, timeout_s):
    begin = time.monotonic()
    while not condition():
        assert time.monotonic() - begin < timeout_s, f"not within {timeout_s} s: {what}"
        time.sleep(0.1)
    return time.monotonic() - begin


def all_ended(hosts, ray, timeout_s):
    """No process within the time, and no job that runs."""
    wait_gone(hosts, NAME, timeout_s)
    wait_for("all jobs have ended", lambda: not ray.living_jobs(), timeout_s)


def workers(host):
    return [pid for pid, command in host.processes(NAME) if " worker " in command and "/bin/sh" not in command]


def check_split(hosts, ray, nodes, *split, n_cases=3):
    server = Serve(hosts[0], BINARY, *RAY, *split).wait_ready()
    server.check_golden(n_cases)
    assert [len(workers(host)) for host in hosts] == nodes, server.process.output()
    assert server.stop(signal.SIGTERM) == 0, server.process.output()
    all_ended(hosts, ray, 5)


def test_tp1(hosts, ray):
    check_split(hosts, ray, [1, 0])


def test_tp2_over_two_hosts(hosts, ray):
    check_split(hosts, ray, [1, 1], "-tp", "2", "--nnodes", "2")


def test_pp2(hosts, ray):
    check_split(hosts, ray, [1, 1], "-pp", "2")


def test_tp2_pp2(hosts, ray):
    check_split(hosts, ray, [1, 1], "-tp", "2", "-pp", "2")


def test_tp4_and_ray_status(hosts, ray):
    """Also: more ranks than KV heads, a program that Ray ships, and CPUs that Ray counts as used while it serves."""
    server = Serve(hosts[0], BINARY, *RAY, "-tp", "4", "--ray-ship-binary").wait_ready()
    wait_for("ray status shows 4 CPUs as used", lambda: "4.0/4.0 CPU" in ray.status(), 15)
    wait_for("the dashboard counts 4 CPUs as used", lambda: ray.cpus_used() == (4, 4), 10)
    # No room beside it: said with all numbers, and nothing is submitted.
    n_jobs = len(ray.jobs())
    second = Serve(hosts[1], BINARY, *RAY, "--port", "8001")
    assert second.process.wait(25) == 1, second.process.output()
    assert "10.77.0.1 (head): 2 CPUs, 2 used, 0 free" in second.process.output(), second.process.output()
    assert len(ray.jobs()) == n_jobs
    server.check_golden(3)
    assert server.stop(signal.SIGTERM) == 0, server.process.output()
    all_ended(hosts, ray, 5)
    wait_for("Ray has its CPUs back", lambda: "0.0/4.0 CPU" in ray.status(), 15)


def test_sixteen_ranks(hosts, ray):
    """Both commands of the guide for the 235B, on its numbers of heads and experts with narrow made-up weights. The two CPUs of a host are
    fewer than its eight ranks."""
    folder = tempfile.mkdtemp(prefix="shoal-qwen-")
    shutil.copy(os.path.join(DATA, "configs", "Qwen--Qwen3-235B-A22B_config.json"), os.path.join(folder, "config.json"))
    for name in ("tokenizer.json", "tokenizer_config.json"):
        shutil.copy(os.path.join(MODEL, name), folder)
    narrow = {"num_hidden_layers": 3, "hidden_size": 192, "head_dim": 16, "moe_intermediate_size": 128, "vocab_size": 2048}
    guide = ["--enable-expert-parallel", "--seed", "1024", "--max-model-len", "8192", "--max-num-seqs", "25", "--trust-remote-code"]
    guide += ["--gpu-memory-utilization", "0.9", "--load-format", "dummy", "--hf-overrides", json.dumps(narrow)]
    ray_flags = [flag for flag in RAY if flag not in ("--threads", "1")]
    answers = []
    for split in (["--tensor-parallel-size", "8", "--pipeline-parallel-size", "2"], ["--tensor-parallel-size", "16"]):
        server = Serve(hosts[0], BINARY, *ray_flags, *guide, *split, model=folder, name="qwen").wait_ready(120)
        assert "The cluster has 4 CPUs for 16 ranks" in server.process.output(), server.process.output()
        assert [len(workers(host)) for host in hosts] == [1, 1], server.process.output()
        body = {"model": "qwen", "prompt": [5, 6, 7, 8], "max_tokens": 4, "temperature": 0, "ignore_eos": True, "return_token_ids": True}
        status, answer = server.request("/v1/completions", body, timeout=60)
        assert status == 200, (status, answer, server.process.output())
        answers.append(answer["choices"][0]["token_ids"])
        assert server.stop(signal.SIGTERM) == 0, server.process.output()
        all_ended(hosts, ray, 10)
    shutil.rmtree(folder)
    assert len(answers[0]) == 4 and answers[0][0] == answers[1][0], answers


def test_worker_is_killed(hosts, ray):
    server = Serve(hosts[0], BINARY, *RAY, "-tp", "2", "--nnodes", "2").wait_ready()
    finish = server.start_long(4)
    time.sleep(1)
    os.kill(workers(hosts[1])[0], signal.SIGKILL)
    healths, end = set(), time.monotonic() + 10
    while server.process.running() and time.monotonic() < end:
        healths.add(server.request("/health", timeout=2)[0])
        time.sleep(0.02)
    for status, answer, after_s in finish(5):
        assert status in (500, 503) or status == 0, (status, answer)
        assert after_s < 5, after_s
    assert 503 in healths, (healths, server.process.output())
    assert server.process.wait(10) not in (None, 0), server.process.output()
    assert "node 1" in server.process.output(), server.process.output()
    all_ended(hosts, ray, 5)


def test_driver_is_killed(hosts, ray):
    server = Serve(hosts[0], BINARY, *RAY, "-tp", "2", "--nnodes", "2").wait_ready()
    server.start_long(2)
    time.sleep(0.5)
    server.process.kill(signal.SIGKILL)
    begin = time.monotonic()
    all_ended(hosts, ray, 5)
    assert time.monotonic() - begin < 5


def test_driver_is_killed_while_starting(hosts, ray):
    server = Serve(hosts[0], BINARY, *RAY, "-tp", "2", "--nnodes", "2")
    wait_for("jobs are submitted", lambda: "Rendezvous on" in server.process.output(), 10)
    time.sleep(0.3)
    server.process.kill(signal.SIGKILL)
    # Nobody can call back a job that Ray has not begun yet: its worker finds no driver 1.5 s after Ray, which takes 2 to 4 s, has started it.
    wait_for("all jobs have ended", lambda: not ray.living_jobs(), 8)
    wait_gone(hosts, NAME, 1)


def test_worker_cannot_start(hosts, ray):
    server = Serve(hosts[0], BINARY, *RAY, "-pp", "2", env={"SHOAL_BINARY": "/nowhere/shoal"})
    assert server.process.wait(20) == 1, server.process.output()
    assert "exit status 127" in server.process.output() and "/nowhere/shoal: not found" in server.process.output(), server.process.output()
    all_ended(hosts, ray, 5)


def test_by_hand(hosts, _):
    hand = ["--nnodes", "2", "--master-addr", hosts[0].ip, "-tp", "2", "--distributed-timeout-seconds", "20"]
    secret = {"SHOAL_LAUNCH_SECRET": "as copied to every node"}
    server = Serve(hosts[0], BINARY, *hand, "--node-rank", "0", env=secret)
    time.sleep(1.5)
    further = Serve(hosts[1], BINARY, *hand, "--node-rank", "1", "--headless", env=secret)
    server.wait_ready().check_golden(3)
    assert server.stop(signal.SIGTERM) == 0, server.process.output()
    assert further.process.wait(5) == 0, further.process.output()
    wait_gone(hosts, NAME, 5)


def test_by_hand_with_another_secret(hosts, _):
    hand = ["--nnodes", "2", "--master-addr", hosts[0].ip, "-tp", "2", "--distributed-timeout-seconds", "5"]
    server = Serve(hosts[0], BINARY, *hand, "--node-rank", "0", env={"SHOAL_LAUNCH_SECRET": "as copied to every node"})
    further = Serve(hosts[1], BINARY, *hand, "--node-rank", "1", "--headless", env={"SHOAL_LAUNCH_SECRET": "as copied to no other"})
    assert further.process.wait(15) == 1 and "secret" in further.process.output(), further.process.output()
    assert server.process.wait(15) == 1, server.process.output()
    assert "node 1: nobody with --node-rank 1 has connected" in server.process.output(), server.process.output()
    assert "1 foreign connection" in server.process.output(), server.process.output()
    wait_gone(hosts, NAME, 5)


def test_link_is_cut(hosts, ray):
    """The last one: Ray's own node does not survive it."""
    server = Serve(hosts[0], BINARY, *RAY, "-tp", "2", "--nnodes", "2").wait_ready()
    finish = server.start_long(2)
    time.sleep(0.5)
    hosts[1].link(up=False)
    for status, answer, _after_s in finish(20):
        assert status in (0, 500, 503), (status, answer)
    assert server.process.wait(25) not in (None, 0), server.process.output()
    wait_gone(hosts, NAME, 10)


def main():
    tests = {name: test for name, test in globals().items() if name.startswith("test_") and (not WANTED or name in WANTED)}
    assert tests, f"no test is called {WANTED}"
    logs = tempfile.mkdtemp(prefix="shoal-logs-")
    begin = time.monotonic()
    with Hosts(2, logs) as hosts:
        ray = RayCluster(hosts, [2, 2], VENV)
        print(f"Ray is up ({time.monotonic() - begin:.1f} s); logs in {logs}", flush=True)
        for name, test in tests.items():
            began = time.monotonic()
            test(hosts, ray)
            print(f"{name}: ok ({time.monotonic() - began:.1f} s)", flush=True)


try:
    main()
except HostsError as error:
    sys.exit(f"FAILED: {error}")
