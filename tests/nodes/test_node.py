"""`shoal node` on two hosts with a real Ray: start, join, serve over it, look at it, lose a node, stop one node only.

    test_node.py PATH_OF_SHOAL PATH_OF_VENV_WITH_RAY
"""

import json
import os
import signal
import sys
import tempfile
import time

from hosts import Hosts, HostsError, sh
from serving import Serve, wait_gone

BINARY, VENV = os.path.abspath(sys.argv[1]), os.path.abspath(sys.argv[2])
HEAD = "10.77.0.1"
DASHBOARD = f"http://{HEAD}:8265"
ENV = {k: v for k, v in os.environ.items() if not k.startswith(("RAY_", "SHOAL_", "GLOO_"))}


def node(host, *args, ok=True, timeout=150):
    env = {**ENV, "HOME": host.hosts.scratch}
    done = host.run(BINARY, "node", *args, check=False, env=env, timeout=timeout)
    assert (done.returncode == 0) == ok, (done.returncode, done.stdout, done.stderr)
    return done


def start(host, *args, ok=True):
    small = ["--num-cpus", "1", "--object-store-memory", "80MB", "--temp-dir", f"{host.hosts.scratch}/ray", "--ray-venv", VENV]
    return node(host, "start", *small, *args, ok=ok)


def status(host, ok=True):
    report = json.loads(node(host, "status", "--json", "--ray-address", DASHBOARD, ok=ok).stdout)
    return {n["address"]: n for n in report["nodes"]}


def state_of(host, address):
    env = {**ENV, "HOME": host.hosts.scratch}
    done = host.run(BINARY, "node", "status", "--json", "--ray-address", DASHBOARD, check=False, env=env)
    nodes = json.loads(done.stdout)["nodes"]
    return next(n["state"] for n in nodes if n["address"] == address)


def wait_for(what, condition, timeout_s):
    begin = time.monotonic()
    while not condition():
        assert time.monotonic() - begin < timeout_s, f"not within {timeout_s} s: {what}"
        time.sleep(0.3)
    return time.monotonic() - begin


def ray_processes(host):
    return [c for _, c in host.processes() if "/raylet" in c or "gcs_server" in c or "ray::" in c or "ray/dashboard" in c or "/ray/" in c]


def check_refusals(a, b):
    """What is refused before anything runs, with the reason."""
    done = node(b, "start", "--address", f"{HEAD}:6379", "--ray-venv", "/nowhere", ok=False)
    assert "no Ray in /nowhere" in done.stderr, done.stderr
    done = start(b, "--address", f"{HEAD}:6379", ok=False)
    assert f"the head {HEAD} does not answer on port 6379" in done.stderr, done.stderr
    done = node(a, "start", "--head", "--interface", "eth7", "--ray-venv", VENV, ok=False)
    assert "eth7" in done.stderr and "eth0 (10.77.0.1)" in done.stderr, done.stderr
    done = start(a, "--head", "--", "--no-such-flag", ok=False)
    assert "no-such-flag" in done.stderr and "ray start" in done.stderr, done.stderr
    assert not ray_processes(a), ray_processes(a)
    done = node(a, "status", "--ray-address", DASHBOARD, ok=False)
    assert DASHBOARD in done.stderr, done.stderr
    assert "No Ray runs on this node" in node(a, "stop").stdout


def check_start(a, b):
    done = start(a, "--head")
    assert "this node is the head" in done.stdout and f"Dashboard: {DASHBOARD}" in done.stdout, done.stdout
    assert f"shoal node start --address {HEAD}:6379" in done.stdout, done.stdout
    assert list(status(a)) == [HEAD]
    # What was promised is the command that works; and Ray sees the environment.
    done = start(b, "--address", f"{HEAD}:6379")
    assert "in the cluster" in done.stdout, done.stdout
    nodes = status(b)
    assert {k: v["state"] for k, v in nodes.items()} == {HEAD: "alive", b.ip: "alive"}, nodes
    assert all(n["devices"]["CPU"]["total"] == 1 for n in nodes.values()), nodes
    raylet = next(pid for pid, command in b.processes("/raylet --raylet_socket"))
    with open(f"/proc/{raylet}/environ") as file:
        env = dict(e.partition("=")[::2] for e in file.read().split("\0"))
    assert env["HCCL_IF_IP"] == b.ip and env["GLOO_SOCKET_IFNAME"] == env["TP_SOCKET_IFNAME"] == "eth0", env
    done = start(b, "--address", f"{HEAD}:6379", ok=False)
    assert f"Ray runs on this node already, as {b.ip}" in done.stderr, done.stderr


def check_serve(a, b):
    server = Serve(
        a, BINARY, "--distributed-executor-backend", "ray", "--ray-address", DASHBOARD, "--threads", "1", "-pp", "2"
    ).wait_ready()
    server.check_golden(2)
    nodes = status(a)
    for ranks, address in (("0", HEAD), ("1", b.ip)):
        assert nodes[address]["devices"]["CPU"]["shoal"] == 1, nodes
        assert [job["ranks"] for job in nodes[address]["jobs"]] == [ranks], nodes
    table = node(a, "status", "--ray-address", DASHBOARD).stdout
    assert "2 nodes alive" in table and "ranks 1 1 CPU" in table, table
    assert server.stop(signal.SIGTERM) == 0, server.process.output()
    wait_gone([a, b], os.path.basename(BINARY), 10)
    wait_for("shoal holds nothing any more", lambda: not any(n["jobs"] for n in status(a).values()), 15)


def check_lost_and_back(a, b):
    """A cable is pulled: the cluster says so in seconds."""
    b.link(up=False)
    took = wait_for("the node is lost", lambda: state_of(a, b.ip) == "lost", 30)
    print(f"a lost node is noticed after {took:.1f} s", flush=True)
    assert "lost" in node(a, "status", "--ray-address", DASHBOARD, ok=False).stdout
    b.link(up=True)
    node(b, "stop")
    wait_for("no process of Ray is left there", lambda: not ray_processes(b), 10)


def check_block(a, b):
    """The node comes back under its address, in the foreground as a container or systemd runs it, and takes leave on SIGTERM."""
    args = ["--address", f"{HEAD}:6379", "--block", "--num-cpus", "1", "--object-store-memory", "80MB", "--ray-venv", VENV]
    process = b.spawn(BINARY, "node", "start", *args, env={**ENV, "HOME": b.hosts.scratch})
    wait_for("it has started", lambda: "in the cluster" in process.output() or not process.running(), 150)
    assert process.running(), process.output()
    assert {n["state"] for n in status(a).values()} == {"alive"}
    process.kill(signal.SIGTERM)
    assert process.wait(20) == 0, process.output()
    assert not ray_processes(b), ray_processes(b)
    wait_for("it took leave", lambda: state_of(a, b.ip) == "stopped", 10)


def check_stop(a, b):
    """One node's Ray ends, seen from the whole machine: what runs in another network is another node's."""
    start(b, "--address", f"{HEAD}:6379")
    bystander = b.spawn("sleep", "1000")
    done = sh("ip", "netns", "exec", b.namespace, BINARY, "node", "stop")
    assert "Ray has ended on this node" in done.stdout, done.stdout
    assert not ray_processes(b), ray_processes(b)
    assert bystander.running()
    bystander.kill()
    wait_for("it took leave", lambda: state_of(a, b.ip) == "stopped", 10)
    assert status(a)[HEAD]["state"] == "alive"
    node(a, "stop")
    assert not ray_processes(a), ray_processes(a)


try:
    with Hosts(2, tempfile.mkdtemp(prefix="shoal-logs-")) as hosts:
        a, b = hosts
        for check, args in (
            (check_refusals, (a, b)),
            (check_start, (a, b)),
            (check_serve, (a, b)),
            (check_lost_and_back, (a, b)),
            (check_block, (a, b)),
            (check_stop, (a, b)),
        ):
            begin = time.monotonic()
            check(*args)
            print(f"{check.__name__}: ok ({time.monotonic() - begin:.1f} s)", flush=True)
except HostsError as error:
    sys.exit(f"test_node: {error}")
