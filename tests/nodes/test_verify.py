"""`shoal verify` and the check that `shoal serve` begins with, on hosts of namespaces: every way in which nodes and links can be
broken gives its line, its exit status, and ends in time. Over ssh (a stand-in that enters a host) most of it, over real Ray the rest.

    test_verify.py PATH_OF_SHOAL PATH_OF_VENV_WITH_RAY [NAME …]     (tests to run; all without a name)
"""

import contextlib
import json
import os
import re
import subprocess
import sys
import tempfile
import time

from hosts import Hosts, HostsError, RayCluster, die_with_parent, sh
from serving import MODEL, Serve, wait_gone

BINARY, VENV, WANTED = os.path.abspath(sys.argv[1]), sys.argv[2], sys.argv[3:]
HERE = os.path.dirname(os.path.abspath(__file__))
STANDIN = os.path.join(HERE, "ssh_standin.sh")
HCCN = os.path.join(os.path.dirname(HERE), "verify", "hccn_standin.sh")
CLEAN = {k: v for k, v in os.environ.items() if not k.startswith(("RAY_", "SHOAL_", "GLOO_", "HF_", "HCCN_"))}


class Result:
    def __init__(self, done, seconds):
        self.status, self.text, self.errors, self.seconds = done.returncode, done.stdout, done.stderr, seconds
        self.json = json.loads(done.stdout) if done.stdout.startswith("{") else None

    def __str__(self):
        lines = "" if self.json is None else "\n".join(str(c) for c in self.json["checks"])
        return f"status {self.status} after {self.seconds:.1f} s\n{self.errors}\n{lines or self.text}"

    def find(self, status, check, pattern, node=None):
        """The line of this kind, which must be there."""
        for line in self.json["checks"]:
            if line["check"] == check and line["status"] == status and re.search(pattern, line["text"]) and line.get("node") == node:
                assert status in ("ok", "note") or line["advice"], line
                return line
        raise AssertionError(f"no line '{status} {check} {pattern}' of node {node}: {self}")

    def expect(self, status, timeout_s):
        assert self.status == status, self
        assert self.seconds < timeout_s, self
        assert self.json is None or self.json["passed"] == (status == 0), self
        return self


def run(command, env, timeout_s=90):
    begin = time.monotonic()
    done = subprocess.run(
        command, capture_output=True, text=True, env=env, timeout=timeout_s, stdin=subprocess.DEVNULL, preexec_fn=die_with_parent
    )
    return Result(done, time.monotonic() - begin)


def over_ssh(hosts, names, *args, env=None):
    """The driver in host 0's network; the stand-in for ssh must see all hosts, so it stays in this machine's other namespaces."""
    full = dict(CLEAN, SSH_STANDIN_PIDS=" ".join(f"{host.index}:{host.pid}" for host in hosts), **(env or {}))
    inside = ["nsenter", f"--net=/run/netns/{hosts[0].namespace}", "--"]
    ssh = ["--hosts", names, "--ssh-command", f"{STANDIN} {hosts.prefix}", "--interface", "eth0", "--json"]
    return run([*inside, BINARY, "verify", *ssh, *args], full)


def over_ray(hosts, *args, env=None, interface="eth0"):
    ray = ["--ray-address", f"{hosts[0].ip}:8265", "--interface", interface, "--json", "--quick", "--timeout-s", "60"]
    return run(hosts[0].enter([BINARY, "verify", *ray, *args]), dict(CLEAN, **(env or {})))


@contextlib.contextmanager
def broken(do, undo):
    do()
    try:
        yield
    finally:
        undo()


def firewall(host, rule):
    """Packets that come in and match are dropped."""
    lines = f"add table inet t\nadd chain inet t i {{ type filter hook input priority 0; }}\nadd rule inet t i {rule} drop\n"
    return broken(lambda: host.run("sh", "-c", "printf '%s' \"$1\" | nft -f -", "sh", lines), lambda: host.run("nft", "flush", "ruleset"))


def port_option(hosts, index, *options, back):
    """Of the switch's port to a host."""
    return broken(
        lambda: sh("ip", "-n", hosts.switch, "link", "set", f"port{index}", *options),
        lambda: sh("ip", "-n", hosts.switch, "link", "set", f"port{index}", *back),
    )


def link_option(host, *options, back):
    return broken(
        lambda: sh("ip", "-n", host.namespace, "link", "set", "eth0", *options),
        lambda: sh("ip", "-n", host.namespace, "link", "set", "eth0", *back),
    )


def test_local(hosts, _):
    result = run(hosts[0].enter([BINARY, "verify", "--local", "--json", MODEL]), CLEAN).expect(0, 10)
    result.find("ok", "link", "^lo up", 0)
    result.find("ok", "model", "fingerprint", 0)
    table = run(hosts[0].enter([BINARY, "verify", "--local"]), CLEAN).expect(0, 10).text
    assert "node 0: host0 (127.0.0.1)" in table and "  ok    memory " in table and "0 FAILED" in table, table


def test_three_hosts(hosts, _):
    tools = f"{hosts.scratch}/bin"  # lldpd runs on host 1 alone, and its client hangs on host 2
    neighbour = {
        "lldp": {"interface": {"eth0": {"chassis": {"rack7": {"descr": "a switch"}}, "port": {"id": {"value": "x"}, "descr": "port 12"}}}}
    }
    for host, line in ((hosts[1], f"echo '{json.dumps(neighbour)}'"), (hosts[2], "sleep 100")):
        host.run("sh", "-c", 'mkdir -p "$2" && printf "#!/bin/sh\n%s\n" "$1" >"$2/lldpcli" && chmod +x "$2/lldpcli"', "sh", line, tools)
    path = {"PATH": f"{tools}:{os.environ['PATH']}"}
    result = over_ssh(hosts, "host0,host1,host2", MODEL, "-tp", "3", env=path).expect(0, 60)
    result.find("note", "lldp", "lldpd is not installed", 0)
    result.find("ok", "lldp", "eth0 is at rack7, port port 12", 1)
    result.find("note", "lldp", r"no answer within 2.0 s; it was killed", 2)
    for node in range(3):
        result.find("ok", "node", "answers as process", node)
        result.find("ok", "interface", rf"^eth0 {hosts[node].ip} .*lo 127.0.0.1", node)
        result.find("ok", "route", "over eth0", node)
        result.find("ok", "clock", "ms from the driver's", node)
        result.find("ok", "model", "fingerprint", node)
        result.find("ok", "mtu", f"to node {(node + 1) % 3}: a full frame of 1500 bytes passes", node)
    assert len(result.json["pairs"]) == 6
    for pair in result.json["pairs"]:
        assert 0 < pair["us_64b"] <= pair["us_64b_p99"] and 0 < pair["us_16kib"] <= pair["us_16kib_p99"], pair
        assert pair["mbits_1_stream"] > 10 and pair["mbits_4_streams"] > 10 and not pair["trouble"], pair
    result.find("ok", "all-reduce", "of 192 floats .* over 3 nodes")
    result.find("ok", "cost", r"tensor parallel 3, pipeline parallel 1: .*\(12 all-reduces")
    quick = over_ssh(hosts, "host0,host1", "--quick").expect(0, 30)
    assert quick.json["seconds"] < 10, quick  # 0.3 s on a machine that has nothing else to do


def test_missing_host(hosts, _):
    result = over_ssh(hosts, "host0,host1,hostX", "--quick").expect(1, 30)
    result.find("FAIL", "node", "Could not resolve hostname hostX", 2)
    result.find("ok", "all-reduce", "over 2 nodes")


def test_mtu(hosts, _):
    with link_option(hosts[1], "mtu", "1400", back=("mtu", "1500")):
        result = over_ssh(hosts, "host0,host1", "--quick").expect(0, 30)  # TCP finds the smaller size
        result.find("warn", "mtu", "the MTU differs: node 0: 1500, node 1: 1400")
        result.find("warn", "mtu", "to node 1: frames of 1500 bytes do not pass, 1400 bytes do", 0)
    # The switch swallows full frames without a word: small messages pass, then all stops. Segments are not to be merged for it.
    small = ("gso_max_segs", "1"), ("gso_max_segs", "65535")
    with link_option(hosts[0], *small[0], back=small[1]), link_option(hosts[1], *small[0], back=small[1]):
        with port_option(hosts, 1, "mtu", "1400", back=("mtu", "1500")):
            result = over_ssh(hosts, "host0,host1", "--quick").expect(1, 45)
            result.find("FAIL", "mtu", "to node 1: frames of 1500 bytes are lost on the way, 1400 bytes pass", 0)
            result.find("note", "all-reduce", "not all links work")


def test_rate_limit(hosts, _):
    tc = ["tc", "-n", hosts.switch, "qdisc"]
    limit = ["dev", "port1", "root", "tbf", "rate", "100mbit", "burst", "32k", "latency", "50ms"]
    with broken(lambda: sh(*tc, "add", *limit), lambda: sh(*tc, "del", "dev", "port1", "root")):
        result = over_ssh(hosts, "host0,host1,host2", "--quick").expect(0, 30)
        result.find("warn", "bandwidth", r"to node 1: .* 0\.\d\d Gb/s", 0)
        result.find("warn", "bandwidth", r"to node 1: .* 0\.\d\d Gb/s", 2)
        slow = {(pair["from"], pair["to"]) for pair in result.json["pairs"] if pair["slow"]}
        assert {(0, 1), (2, 1)} <= slow, slow


def test_blocked_ports(hosts, _):
    with firewall(hosts[1], "tcp flags syn / syn,ack"):
        result = over_ssh(hosts, "host0,host1", "--quick").expect(1, 30)
        result.find("FAIL", "link", r"to node 1 \(10.77.0.2\): cannot connect .* timed out", 0)
        result.find("note", "all-reduce", "not all links work")
    with firewall(hosts[1], "meta l4proto udp"):  # only the test of full frames needs it
        over_ssh(hosts, "host0,host1", "--quick").expect(0, 30).find("note", "mtu", "no UDP passes", 0)


def test_npus(hosts, _):
    """Two nodes with four NPUs each: the second one's answers are other than its file's, one ping is lost one way, one TLS switch is on."""
    tool = f"{hosts.scratch}/hccn_tool"
    faults = {0: "2:ping=ping-loss.txt", 1: "3:link=link-down.txt 1:tls=tls-on.txt 0:net_health=HANG"}
    for node in range(2):
        script = f"#!/bin/sh\nexport HCCN_NET=11.12.{165 + node} HCCN_FAULTS='{faults[node]}'\nexec {HCCN} \"$@\"\n"
        conf = "".join(
            f"address_{i}=11.12.165.8{i}\nnetmask_{i}=255.255.255.0\nnetdetect_{i}=11.12.165.1\ngateway_{i}=11.12.165.1\n" for i in range(4)
        )
        hosts[node].run(
            "sh",
            "-c",
            'printf "%s" "$1" >"$2" && chmod +x "$2" && printf "%s" "$3" >"$4"',
            "sh",
            script,
            tool,
            conf,
            f"{hosts.scratch}/hccn.conf",
        )
    result = over_ssh(hosts, "host0,host1", "--hccn-tool", tool, "--npu-smi", tool, "--hccn-conf", f"{hosts.scratch}/hccn.conf").expect(
        1, 45
    )
    result.find("ok", "npu-smi", "4 NPU", 0)
    result.find("ok", "npu link", "4 of 4: UP", 0)
    result.find("ok", "hccn.conf", "agrees", 0)
    result.find("FAIL", "npu link", "NPU 3: DOWN", 1)
    result.find("FAIL", "npu health", r"NPU 0: no answer within 2.0 s; it was killed", 1)
    result.find("FAIL", "hccn.conf", "address_0 is 11.12.165.80 there and 11.12.166.80 on the NPU", 1)
    result.find("FAIL", "npu ping", r"NPU 2 to node 1 \(11.12.166.82\): 1 of 3 lost, none the other way round", 0)
    result.find("ok", "npu ping", "4 to NPUs of other nodes, no loss", 1)
    result.find("FAIL", "npu tls", "off on node 0 NPU 0.*; on on node 1 NPU 1")


def test_delay(hosts, _):
    """No netem in many kernels: a relay between two TUN devices holds every packet for a while. Last of the tests without Ray."""
    relay = subprocess.Popen(
        [sys.executable, os.path.join(HERE, "tun_relay.py"), hosts[0].namespace, hosts[1].namespace, "10.99.0.1", "10.99.0.2", "0.003"],
        stdout=subprocess.PIPE,
        preexec_fn=die_with_parent,
    )
    try:
        assert relay.stdout.readline() == b"ready\n"
        full = dict(CLEAN, SSH_STANDIN_PIDS=" ".join(f"{host.index}:{host.pid}" for host in hosts))
        inside = ["nsenter", f"--net=/run/netns/{hosts[0].namespace}", "--"]
        args = ["--hosts", "host0,host1", "--ssh-command", f"{STANDIN} {hosts.prefix}", "--interface", "tun0", "--json", "--quick"]
        result = run([*inside, BINARY, "verify", *args], full).expect(0, 30)
        line = result.find("warn", "latency", r"to node 1: \d{4,} µs one way", 0)
        assert 3000 <= int(re.search(r"(\d+) µs", line["text"]).group(1)) < 100000, line
    finally:
        relay.kill()
        relay.wait()


def test_interface_down(hosts, _):
    with broken(lambda: hosts[1].link(up=False), lambda: hosts[1].link(up=True)):
        result = over_ssh(hosts, "host0,host1", "--quick", "--timeout-s", "5").expect(1, 15)
        result.find("FAIL", "node", "Network is unreachable", 1)
        result.find("ok", "memory", "free", 0)


def test_ray(hosts, ray):
    """What Ray alone can show: its nodes, a node that is missing, a different build, a wrong clock, a wrong interface."""
    result = over_ray(hosts).expect(0, 80)
    for node in range(2):
        result.find("ok", "node", "answers as process", node)
        result.find("ok", "build", r"\+", node)
    assert len(result.json["pairs"]) == 2, result
    wait_gone(hosts, "verify-agent", 5)


def wrapper(hosts, lines):
    """One path on each host, behind which each has something else; how Ray's jobs find shoal."""
    path = f"{hosts.scratch}/shoal"
    for host, line in zip(hosts, lines):
        host.run("sh", "-c", 'printf "#!/bin/sh\\n%s\\n" "$1" >"$2" && chmod +x "$2"', "sh", line, path)
    return {"SHOAL_BINARY": path}


def test_ray_build_and_clock(hosts, ray):
    """The second host has another build, and its clock is a minute off; the third that --nnodes asks for is not there."""
    with open(BINARY, "rb") as file:
        image = file.read()
    version = run([BINARY, "version"], CLEAN).text.strip()
    build_id = bytes.fromhex(version.split("+")[1])
    assert image.count(build_id) == 1, version
    other = f"{hosts.scratch}-other"  # a folder that both hosts see
    with open(other, "wb") as file:
        file.write(image.replace(build_id, bytes(b ^ 1 for b in build_id)))
    os.chmod(other, 0o755)
    try:
        env = wrapper(hosts, [f'exec {BINARY} "$@"', f'exec {other} "$@" --clock-offset-ms 60000'])
        result = over_ray(hosts, "--nnodes", "3", env=env).expect(1, 80)
    finally:
        os.remove(other)
    result.find("FAIL", "build", r"^it is 0\.", 1)
    result.find("FAIL", "clock", r"\+60\.\d s", 1)
    result.find("FAIL", "node", r"Ray has 2 live node\(s\), but --nnodes says 3", 2)
    result.find("ok", "build", r"\+", 0)


def test_ray_wrong_interface(hosts, ray):
    """wrong0 is on the head alone, and so is its network."""
    sh("ip", "-n", hosts[0].namespace, "link", "add", "wrong0", "type", "bridge")
    sh("ip", "-n", hosts[0].namespace, "addr", "add", "10.88.0.1/24", "dev", "wrong0")
    sh("ip", "-n", hosts[0].namespace, "link", "set", "wrong0", "up")
    try:
        result = over_ray(hosts, interface="wrong0").expect(1, 80)
        result.find("FAIL", "node", "wrong0.*which this host does not have; it has: lo", 1)
    finally:
        sh("ip", "-n", hosts[0].namespace, "link", "del", "wrong0")
    assert (
        run(hosts[0].enter([BINARY, "verify", "--interface", "eth7", "--ray-address", f"{hosts[0].ip}:8265"]), CLEAN)
        .expect(1, 20)
        .errors.count("eth7")
    )


def test_serve(hosts, ray):
    """It looks before it loads, and starts no server over a link that does not work."""
    args = ["--distributed-executor-backend", "ray", "--ray-address", f"{hosts[0].ip}:8265", "--threads", "1", "-tp", "2", "--nnodes", "2"]
    with firewall(hosts[1], "tcp flags syn / syn,ack ip saddr 10.77.0.1 tcp dport 30000-65535"):
        server = Serve(hosts[0], BINARY, *args)
        assert server.process.wait(80) == 1, server.process.output()
    output = server.process.output()
    assert "verification failed: node 0: host0 (10.77.0.1): link: to node 1" in output and "FAIL  link " in output, output
    assert "Loading weights" not in output, output
    wait_gone(hosts, os.path.basename(BINARY), 10)
    server = Serve(hosts[0], BINARY, *args).wait_ready()
    took = re.search(r"Verified 2 nodes in ([\d.]+) s", server.process.output())
    assert took and float(took.group(1)) < 10, server.process.output()
    server.check_golden(1)
    assert server.stop(15) == 0, server.process.output()
    wait_gone(hosts, os.path.basename(BINARY), 10)


def main():
    tests = {name: test for name, test in globals().items() if name.startswith("test_") and (not WANTED or name in WANTED)}
    assert tests, f"no test is called {WANTED}"
    logs = tempfile.mkdtemp(prefix="shoal-logs-")
    begin = time.monotonic()
    with Hosts(3, logs) as hosts:
        ray = None
        for name, test in tests.items():
            if ray is None and ("ray" in name or "serve" in name):
                ray = RayCluster(hosts.hosts[:2], [2, 2], VENV)
                print(f"Ray is up ({time.monotonic() - begin:.1f} s); logs in {logs}", flush=True)
            began = time.monotonic()
            test(hosts, ray)
            print(f"{name}: ok ({time.monotonic() - began:.1f} s)", flush=True)


try:
    main()
except HostsError as error:
    sys.exit(f"FAILED: {error}")
