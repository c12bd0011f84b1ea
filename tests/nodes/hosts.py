"""Hosts made of namespaces, and a real Ray cluster on them.

A host has its own network namespace (eth0 on a bridge that lives in a namespace of its own, so that the machine's own
network is not touched), PID namespace, host name, /proc and scratch folder; the rest of the file system is shared.
Everything is named shoal-<pid of this process>-…, ends with this process whatever happens to it, and what an earlier
run could not remove (it was killed) is removed by the next.

Needs root and namespaces: without them HostsError says what is missing. Nothing is skipped.
"""

import atexit
import ctypes
import json
import os
import shutil
import signal
import subprocess
import sys
import threading
import time
import urllib.request

PR_SET_PDEATHSIG = 1
CLONE_NEWNET = 0x40000000
INIT = r"""
import os, signal
signals = {signal.SIGCHLD, signal.SIGTERM}
signal.pthread_sigmask(signal.SIG_BLOCK, signals)
print("ready", flush=True)
while signal.sigwait(signals) != signal.SIGTERM:  # PID 1 of its namespace: it must bury whoever is orphaned
    try:
        while os.waitpid(-1, os.WNOHANG)[0]:
            pass
    except ChildProcessError:
        pass
"""


class HostsError(Exception):
    pass


def die_with_parent():
    ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)


def sh(*args, check=True, timeout=60):
    done = subprocess.run(args, capture_output=True, text=True, timeout=timeout)
    if check and done.returncode != 0:
        raise HostsError(f"{' '.join(args)}: {done.stderr.strip() or done.stdout.strip() or done.returncode}")
    return done


def child_of(pid, timeout_s=5):
    """The first child of a process, once it has one."""
    end = time.monotonic() + timeout_s
    while time.monotonic() < end:
        try:
            with open(f"/proc/{pid}/task/{pid}/children") as file:
                children = file.read().split()
        except FileNotFoundError:
            break
        if children:
            return int(children[0])
        time.sleep(0.005)
    raise HostsError(f"process {pid} has no child")


class Process:
    """A command that runs on a host; stdout and stderr go to a file."""

    def __init__(self, host, args, log_path, env=None):
        self.host, self.args, self.log_path = host, args, log_path
        with open(log_path, "wb") as log:
            self.popen = subprocess.Popen(
                host.enter(args), stdout=log, stderr=subprocess.STDOUT, stdin=subprocess.DEVNULL, env=env, preexec_fn=die_with_parent
            )
        try:
            self.pid = child_of(self.popen.pid)  # nsenter waits for it; as this machine numbers it
        except HostsError:
            self.pid = None  # ended already

    def kill(self, signum=signal.SIGKILL):
        if self.pid is not None and self.popen.poll() is None:
            os.kill(self.pid, signum)

    def running(self):
        return self.popen.poll() is None

    def wait(self, timeout_s):
        """Exit status, as the shell counts it (128 + signal), or None when it still runs."""
        try:
            code = self.popen.wait(timeout_s)
        except subprocess.TimeoutExpired:
            return None
        return 128 - code if code < 0 else code

    def output(self):
        with open(self.log_path, errors="replace") as file:
            return file.read()


class Host:
    def __init__(self, hosts, index):
        self.hosts, self.index = hosts, index
        self.namespace = f"{hosts.prefix}-{index}"
        self.name = f"host{index}"
        self.ip = f"{hosts.subnet}.{index + 1}"
        self.init = None
        self.pid = None

    def start(self):
        ns, switch, cable = self.namespace, self.hosts.switch, f"port{self.index}"
        sh("ip", "netns", "add", ns)
        sh("ip", "-n", switch, "link", "add", cable, "type", "veth", "peer", "name", "eth0", "netns", ns)
        sh("ip", "-n", switch, "link", "set", cable, "master", "br0", "up")
        sh("ip", "-n", ns, "addr", "add", f"{self.ip}/24", "dev", "eth0")
        sh("ip", "-n", ns, "link", "set", "eth0", "up")
        sh("ip", "-n", ns, "link", "set", "lo", "up")
        self.init = subprocess.Popen(
            [
                "ip",
                "netns",
                "exec",
                ns,
                "unshare",
                "--pid",
                "--fork",
                "--kill-child",
                "--mount-proc",
                "--uts",
                "--ipc",
                sys.executable,
                "-c",
                INIT,
            ],
            stdout=subprocess.PIPE,
            stdin=subprocess.DEVNULL,
            preexec_fn=die_with_parent,
        )
        if self.init.stdout.readline() != b"ready\n":
            raise HostsError(f"no PID namespace for {ns}: unshare ended with status {self.init.wait()}")
        self.pid = child_of(self.init.pid)
        self.run("hostname", self.name)
        self.run("mount", "-t", "tmpfs", "-o", "size=512m", "scratch", self.hosts.scratch)

    def enter(self, args):
        return ["nsenter", "-t", str(self.pid), "-m", "-u", "-n", "-p", "-i", "--", *map(str, args)]

    def run(self, *args, check=True, env=None, timeout=60):
        """Runs a command to its end; returns the CompletedProcess (text)."""
        done = subprocess.run(
            self.enter(args),
            capture_output=True,
            text=True,
            errors="replace",
            env=env,
            timeout=timeout,
            stdin=subprocess.DEVNULL,
            preexec_fn=die_with_parent,
        )
        if check and done.returncode != 0:
            raise HostsError(
                f"{self.name}: {' '.join(map(str, args))}: status {done.returncode}: {done.stderr[-2000:] or done.stdout[-2000:]}"
            )
        return done

    def call(self, function, *args, **kwargs):
        """Runs a function of this program in the host's network; for sockets that it opens and closes itself."""
        outcome = []

        def inside():
            try:
                with open(f"/run/netns/{self.namespace}") as namespace:
                    if ctypes.CDLL(None, use_errno=True).setns(namespace.fileno(), CLONE_NEWNET) != 0:
                        raise HostsError(f"setns: {os.strerror(ctypes.get_errno())}")
                outcome.append((function(*args, **kwargs), None))
            except BaseException as error:
                outcome.append((None, error))

        thread = threading.Thread(target=inside, daemon=True)  # a thread can have another network than its process
        thread.start()
        thread.join()
        result, error = outcome[0]
        if error is not None:
            raise error
        return result

    def spawn(self, *args, env=None):
        """Starts a command; its output goes to a file outside the hosts."""
        self.hosts.n_logs += 1
        return Process(self, args, os.path.join(self.hosts.logs, f"{self.name}-{self.hosts.n_logs}.log"), env)

    def processes(self, containing=""):
        """(pid on this machine, command line) of the host's living processes whose command line contains a text."""
        try:
            own = os.readlink(f"/proc/{self.pid}/ns/pid")
        except FileNotFoundError:
            return []
        found = []
        for entry in os.listdir("/proc"):
            if not entry.isdigit():
                continue
            try:
                if os.readlink(f"/proc/{entry}/ns/pid") != own:
                    continue
                with open(f"/proc/{entry}/cmdline", "rb") as file:
                    command = file.read().replace(b"\0", b" ").decode(errors="replace").strip()
            except (FileNotFoundError, ProcessLookupError, PermissionError):
                continue
            if command and containing in command:  # a zombie has none
                found.append((int(entry), command))
        return found

    def link(self, up):
        sh("ip", "-n", self.namespace, "link", "set", "eth0", "up" if up else "down")

    def stop(self):
        if self.init is not None:
            self.init.kill()
            self.init.wait()
            if self.pid is not None:
                try:
                    os.kill(self.pid, signal.SIGKILL)  # --kill-child did that, most often
                except ProcessLookupError:
                    pass
                end = time.monotonic() + 10  # it takes all of its namespace along, which takes a moment
                while os.path.exists(f"/proc/{self.pid}") and time.monotonic() < end:
                    time.sleep(0.01)
        sh("ip", "netns", "del", self.namespace, check=False)


class Hosts:
    """n hosts on one switch: `with Hosts(2) as hosts: hosts[0].run("ping", "-c1", hosts[1].ip)`."""

    def __init__(self, n, logs):
        self.prefix = f"shoal-{os.getpid()}"
        self.switch = f"{self.prefix}-switch"
        self.subnet = "10.77.0"  # the switch is connected to nothing else, so that every run can use the same
        self.scratch = f"/tmp/{self.prefix}"  # one path, another folder on each host; short: unix sockets live there
        self.logs = logs
        self.n_logs = 0
        self.hosts = []
        self.is_open = False
        if os.geteuid() != 0:
            raise HostsError("these tests make hosts from namespaces, which needs root")
        for tool in ("ip", "unshare", "nsenter", "mount"):
            if shutil.which(tool) is None:
                raise HostsError(f"these tests need the program '{tool}' (packages iproute2 and util-linux)")
        remove_leftovers()
        atexit.register(self.close)
        for signum in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
            signal.signal(signum, lambda *_: sys.exit(1))
        self.is_open = True
        try:
            os.makedirs(self.scratch, exist_ok=True)
            os.makedirs(self.logs, exist_ok=True)
            sh("ip", "netns", "add", self.switch)
            sh("ip", "-n", self.switch, "link", "add", "br0", "type", "bridge")
            sh("ip", "-n", self.switch, "link", "set", "br0", "up")
            for i in range(n):
                host = Host(self, i)
                self.hosts.append(host)
                host.start()
        except (HostsError, subprocess.SubprocessError, OSError) as error:
            self.close()
            raise HostsError(f"cannot make hosts from namespaces here: {error}") from error

    def __getitem__(self, index):
        return self.hosts[index]

    def __iter__(self):
        return iter(self.hosts)

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.close()

    def close(self):
        if not self.is_open:
            return
        self.is_open = False
        for host in self.hosts:
            host.stop()
        sh("ip", "netns", "del", self.switch, check=False)
        shutil.rmtree(self.scratch, ignore_errors=True)


def remove_leftovers():
    """Namespaces and folders of runs whose process is gone."""
    names = [line.split()[0] for line in sh("ip", "netns", "list").stdout.splitlines() if line.strip()]
    names += os.listdir("/tmp")
    for name in names:
        parts = name.split("-")
        if len(parts) < 2 or parts[0] != "shoal" or not parts[1].isdigit() or os.path.exists(f"/proc/{parts[1]}"):
            continue
        if len(parts) == 3:
            sh("ip", "netns", "del", name, check=False)
        elif len(parts) == 2:
            shutil.rmtree(os.path.join("/tmp", name), ignore_errors=True)


class RayCluster:
    """A real Ray cluster on some hosts, the first of them being the head. cpus: what Ray believes each host has."""

    def __init__(self, hosts, cpus, venv, env=None):
        self.hosts, self.cpus = list(hosts), cpus
        self.ray = os.path.abspath(os.path.join(venv, "bin", "ray"))
        self.head = self.hosts[0]
        self.url = f"http://{self.head.ip}:8265"
        if not os.path.exists(self.ray):
            raise HostsError(f"{self.ray} does not exist: scripts/venv.sh installs ray[default] there")
        self.env = {k: v for k, v in os.environ.items() if not k.startswith(("RAY_", "SHOAL_", "GLOO_"))}
        self.env.update(RAY_USAGE_STATS_ENABLED="0", **(env or {}))
        common = ["--num-gpus=0", "--object-store-memory=80000000", "--disable-usage-stats"]
        self.head.run(
            self.ray,
            "start",
            "--head",
            f"--node-ip-address={self.head.ip}",
            "--port=6379",
            "--dashboard-host=0.0.0.0",
            "--dashboard-port=8265",
            f"--num-cpus={cpus[0]}",
            f"--temp-dir={self.head.hosts.scratch}/ray",
            *common,
            env=self.env,
            timeout=180,
        )
        for host, n_cpus in list(zip(self.hosts, cpus))[1:]:
            host.run(
                self.ray,
                "start",
                f"--address={self.head.ip}:6379",
                f"--node-ip-address={host.ip}",
                f"--num-cpus={n_cpus}",
                *common,
                env=self.env,
                timeout=180,
            )
        self.wait_ready()

    def get(self, path, timeout=10):
        """Asks the dashboard, from the head."""

        def ask():
            with urllib.request.urlopen(self.url + path, timeout=timeout) as answer:
                return json.load(answer)

        return self.head.call(ask)

    def wait_ready(self, timeout_s=60):
        """Until all nodes are alive and their agents, through which jobs start, answer."""
        end, last = time.monotonic() + timeout_s, "nothing yet"
        while time.monotonic() < end:
            try:
                nodes = self.get("/api/v0/nodes?limit=1000")["data"]["result"]["result"]
                usage = self.get("/api/cluster_status")["data"]["clusterStatus"]["loadMetricsReport"]["usageByNode"]
                alive = [n["node_id"] for n in nodes if n["state"] == "ALIVE"]
                last = f"{len(alive)} nodes alive, usage of {len(usage)}"
                if len(alive) == len(self.hosts) and all(a in usage for a in alive):
                    return
            except (OSError, ValueError, KeyError, TypeError) as error:
                last = str(error)
            time.sleep(0.5)
        raise HostsError(f"Ray is not ready after {timeout_s} s: {last}")

    def status(self):
        return self.head.run(self.ray, "status", f"--address={self.head.ip}:6379", env=self.env, timeout=60).stdout

    def cpus_used(self):
        """(used, total) over all nodes, as the dashboard says: some seconds old."""
        usage = self.get("/api/cluster_status")["data"]["clusterStatus"]["loadMetricsReport"]["usageByNode"]
        return tuple(sum(node.get("CPU", [0, 0])[i] for node in usage.values()) for i in (0, 1))

    def jobs(self):
        return self.get("/api/jobs/")

    def living_jobs(self):
        return [job for job in self.jobs() if job.get("type") == "SUBMISSION" and job["status"] in ("PENDING", "RUNNING")]
