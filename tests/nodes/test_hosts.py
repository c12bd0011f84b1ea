"""Self-test of hosts.py: hosts reach each other, are apart, and leave nothing behind, also when their maker is killed."""

import os
import signal
import subprocess
import sys
import tempfile
import time

from hosts import Hosts, remove_leftovers, sh

logs = tempfile.mkdtemp(prefix="shoal-logs-")

if len(sys.argv) > 1 and sys.argv[1] == "victim":
    hosts = Hosts(1, logs)
    hosts[0].spawn("sleep", "1000")
    print(os.getpid(), hosts[0].pid, flush=True)
    time.sleep(1000)


REACH = """
import socket, sys
try:
    socket.create_connection((sys.argv[1], 9), timeout=float(sys.argv[2]))
except ConnectionRefusedError:
    pass  # somebody is there to refuse
"""


def reaches(host, ip, timeout_s):
    return host.run(sys.executable, "-c", REACH, ip, str(timeout_s), check=False).returncode == 0


def test_apart_and_connected():
    with Hosts(2, logs) as hosts:
        a, b = hosts
        assert reaches(a, b.ip, 5)
        assert a.run("hostname").stdout == "host0\n"
        assert len(a.processes()) == 1, a.processes()
        process = a.spawn("sh", "-c", "echo hello; sleep 1000")
        while "hello" not in process.output():
            time.sleep(0.01)
        assert [c for _, c in a.processes("sleep 1000")], a.processes()
        assert not b.processes("sleep 1000")
        assert "sleep 1000" in a.run("ps", "ax").stdout and "sleep 1000" not in b.run("ps", "ax").stdout
        a.run("sh", "-c", f"echo a > {hosts.scratch}/file")
        assert b.run("ls", hosts.scratch).stdout == ""
        b.link(up=False)
        assert not reaches(a, b.ip, 1)
        b.link(up=True)
        assert reaches(a, b.ip, 10)
        process.kill()
        assert process.wait(5) == 137
        assert a.run("sh", "-c", "exit 7", check=False).returncode == 7
        pids = [host.pid for host in hosts]
        prefix = hosts.prefix
    assert prefix not in sh("ip", "netns", "list").stdout
    assert not any(os.path.exists(f"/proc/{pid}") for pid in pids)


def test_nothing_is_left_after_kill_9():
    victim = subprocess.Popen([sys.executable, __file__, "victim"], stdout=subprocess.PIPE, text=True)
    pid, init = map(int, victim.stdout.readline().split())
    victim.send_signal(signal.SIGKILL)
    victim.wait()
    end = time.monotonic() + 5
    while os.path.exists(f"/proc/{init}") and time.monotonic() < end:
        time.sleep(0.02)
    assert not os.path.exists(f"/proc/{init}")
    remove_leftovers()
    assert f"shoal-{pid}-" not in sh("ip", "netns", "list").stdout


for test in (test_apart_and_connected, test_nothing_is_left_after_kill_9):
    test()
    print(f"{test.__name__}: ok", flush=True)
