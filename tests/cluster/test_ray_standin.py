"""Launches over a stand-in for Ray's dashboard that misbehaves in every way that matters: cluster_probe must say what is
wrong, stop what it started, and end. The stand-in runs the jobs' commands as local processes, so that no Ray is needed.

    test_ray_standin.py PATH_OF_CLUSTER_PROBE
"""

import http.server
import json
import os
import re
import signal
import subprocess
import sys
import tempfile
import threading
import time

PROBE = sys.argv[1]
IDS = ["aa" * 20, "bb" * 20]
LOGS = tempfile.mkdtemp(prefix="shoal-standin-")


class Dashboard:
    """Two nodes, 127.0.0.1 and 127.0.0.2, with 2 CPUs each. `hooks` maps (method, path regexp) to a function that answers instead."""

    def __init__(self, token=None, cpus=(2, 2)):
        self.token, self.cpus, self.hooks = token, list(cpus), []
        self.jobs, self.ended, self.submitted, self.stopped, self.deleted, self.uploads = {}, {}, [], [], [], {}
        self.used = [0, 0]
        self.worker_env = {}  # how the stand-in workers behave
        dashboard = self

        class Handler(http.server.BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def handle_any(self):
                body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
                status, answer = dashboard.answer(self.command, self.path, body, self.headers)
                data = answer if isinstance(answer, bytes) else json.dumps(answer).encode()
                self.send_response(status)
                self.send_header("Content-Length", str(len(data)))
                self.end_headers()
                self.wfile.write(data)

            do_GET = do_POST = do_PUT = do_DELETE = handle_any

            def log_message(self, *_):
                pass

        class Server(http.server.ThreadingHTTPServer):
            daemon_threads = True

            def handle_error(self, *_):
                pass  # a client that gives up on a slow answer

        self.server = Server(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self.server.server_address[1]}"
        threading.Thread(target=self.server.serve_forever, daemon=True).start()

    def on(self, method, path, function):
        self.hooks.insert(0, (method, re.compile(path), function))

    def answer(self, method, path, body, headers):
        if self.token and headers.get("Authorization") != f"Bearer {self.token}":
            return (403 if headers.get("Authorization") else 401), b"Unauthorized"
        for hook_method, regexp, function in self.hooks:
            if hook_method == method and regexp.match(path):
                answer = function(path, body)
                if answer is not None:
                    return answer
        if path == "/api/version":
            return 200, {"version": "4", "ray_version": "2.60.0"}
        if path.startswith("/api/v0/nodes"):
            nodes = [
                {
                    "node_id": IDS[i],
                    "node_ip": f"127.0.0.{i + 1}",
                    "is_head_node": i == 0,
                    "state": "ALIVE",
                    "resources_total": {"CPU": self.cpus[i]},
                }
                for i in (0, 1)
            ]
            return 200, {"result": True, "data": {"result": {"total": 2, "result": nodes}}}
        if path == "/api/cluster_status":
            usage = {IDS[i]: {"CPU": [self.used[i], self.cpus[i]]} for i in (0, 1)}
            return 200, {"data": {"clusterStatus": {"loadMetricsReport": {"usageByNode": usage}}}}
        if path.startswith("/api/packages/gcs/"):
            if method == "PUT":
                self.uploads[path] = body
            return (200, {"ok": True}) if path in self.uploads else (404, b"Package does not exist")
        if path == "/api/jobs/" and method == "POST":
            return self.submit(json.loads(body))
        match = re.match(r"/api/jobs/([^/]+)(/stop)?$", path)
        if match and match[1] in self.jobs:
            job = match[1]
            if method == "POST":
                self.stopped.append(job)
                self.jobs[job].send_signal(signal.SIGTERM)
                return 200, {"stopped": True}
            if method == "DELETE":
                self.deleted.append(job)
                return 200, {"deleted": True}
            return 200, self.status(job)
        return 404, b"not found"

    def submit(self, order):
        self.submitted.append(order)
        env = dict(os.environ, **self.worker_env, **order["runtime_env"]["env_vars"])
        log = open(os.path.join(LOGS, order["submission_id"]), "wb")
        self.jobs[order["submission_id"]] = subprocess.Popen(["/bin/sh", "-c", order["entrypoint"]], env=env, stdout=log, stderr=log)
        return 200, {"submission_id": order["submission_id"]}

    def status(self, job):
        code = self.jobs[job].poll()
        if code is None:
            return {"status": "RUNNING", "message": "Job is currently running.", "driver_exit_code": None, "driver_node_id": IDS[0]}
        with open(os.path.join(LOGS, job)) as log:
            message = f"Job entrypoint command failed with exit code {code}, last available logs:\n{log.read()}"
        state = "SUCCEEDED" if code == 0 else "STOPPED" if job in self.stopped else "FAILED"
        return {"status": state, "message": message, "driver_exit_code": code if code > 0 else None, "driver_node_id": IDS[0]}

    def living(self):
        return [job for job, process in self.jobs.items() if process.poll() is None]


def clean_env(**more):
    env = {k: v for k, v in os.environ.items() if not k.startswith(("RAY_", "SHOAL_", "GLOO_"))}
    return dict(env, HOME=LOGS, **more)


def start(dashboard, *args, tp=2, pp=2, **env):
    dashboard.worker_env = {k: v for k, v in env.items() if k.startswith("SHOAL_STANDIN")}
    return subprocess.Popen(
        [PROBE, "ray", str(tp), str(pp), "--ray-address", dashboard.url, *args],
        env=clean_env(**env),
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )


def fails(dashboard, *expected, args=(), within_s=12, **env):
    """The launch must end with status 1 and say all of this; nothing may be left running."""
    begin = time.monotonic()
    probe = start(dashboard, *args, **env)
    output = probe.communicate(timeout=within_s + 20)[0]
    took_s = time.monotonic() - begin
    assert probe.returncode == 1, (probe.returncode, output)
    for text in expected:
        assert text in output, f"'{text}' is not in:\n{output}"
    assert took_s < within_s, f"took {took_s:.1f} s:\n{output}"
    assert not dashboard.living(), output
    return output


def runs(dashboard, *args, **env):
    probe = start(dashboard, *args, **env)
    lines = []
    for line in probe.stdout:
        lines.append(line)
        if line == "started\n":
            return probe, "".join(lines)
    raise AssertionError("".join(lines))


def ends(probe, dashboard, status=0):
    """Asks it to end (status 0), or waits until it ends by itself."""
    output = probe.stdout.read() if status != 0 else ""
    output += probe.communicate(timeout=20)[0]
    assert probe.returncode == status, (probe.returncode, output)
    assert not dashboard.living()
    return output


def test_whole_way():
    dashboard = Dashboard()
    probe, output = runs(dashboard)
    assert "node 0 127.0.0.1 ranks 0+2" in output and "node 1" in output, output
    assert [o["entrypoint_label_selector"] for o in dashboard.submitted] == [{"ray.io/node-id": i} for i in IDS]
    assert [o["entrypoint_num_cpus"] for o in dashboard.submitted] == [2, 2]
    assert all(o["entrypoint"].startswith("exec '") and o["entrypoint"].count("'--driver' '127.0.0.1:") == 1 for o in dashboard.submitted)
    ends(probe, dashboard)
    assert sorted(dashboard.stopped) == sorted(dashboard.deleted) == sorted(dashboard.jobs)


def test_kill_9():
    dashboard = Dashboard()
    probe, _ = runs(dashboard)
    probe.kill()
    end = time.monotonic() + 5
    while dashboard.living() and time.monotonic() < end:
        time.sleep(0.05)
    assert not dashboard.living()


def test_not_ray():
    dashboard = Dashboard()
    dashboard.on("GET", "/api/version", lambda *_: (200, b"<html>hello</html>"))
    fails(dashboard, "is no Ray dashboard")
    dashboard.on("GET", "/api/version", lambda *_: (404, b"no such page"))
    fails(dashboard, "status 404: no such page", "is this its dashboard?")


def test_token():
    dashboard = Dashboard(token="opensesame")
    fails(dashboard, "wants a token: set RAY_AUTH_TOKEN or RAY_AUTH_TOKEN_PATH")
    fails(dashboard, "does not accept the token", RAY_AUTH_TOKEN="wrong")
    fails(dashboard, "No such file", RAY_AUTH_TOKEN_PATH="/nowhere/token")
    path = os.path.join(LOGS, "token")
    with open(path, "w") as file:
        file.write("opensesame\n")
    for env in ({"RAY_AUTH_TOKEN": "opensesame"}, {"RAY_AUTH_TOKEN_PATH": path}):
        probe, _ = runs(dashboard, **env)
        ends(probe, dashboard)
    os.makedirs(os.path.join(LOGS, ".ray"))
    os.rename(path, os.path.join(LOGS, ".ray", "auth_token"))
    probe, _ = runs(dashboard)
    ends(probe, dashboard)


def test_no_room():
    dashboard = Dashboard(cpus=(0, 0))
    output = fails(dashboard, "no room for 4 ranks", "127.0.0.1 (head) (this host): 0 CPUs, 0 used, 0 free", "127.0.0.2", within_s=3)
    assert not dashboard.submitted, output
    dashboard = Dashboard(cpus=(1, 2))
    probe, output = runs(dashboard)
    assert [o["entrypoint_num_cpus"] for o in dashboard.submitted] == [1, 2], dashboard.submitted
    assert "has 3 CPUs for 4 ranks" in output, output
    ends(probe, dashboard)
    dashboard = Dashboard()
    dashboard.used = [2, 0]
    fails(dashboard, "Waiting up to 8 s for CPUs", "2 CPUs, 2 used, 0 free")
    assert not dashboard.submitted
    threading.Timer(2, lambda: dashboard.used.__setitem__(0, 0)).start()
    probe, _ = runs(dashboard)
    ends(probe, dashboard)


def test_garbage():
    for text in (b"", b"{", b"[]", b'{"data":{"result":{"result":[{"node_id":3}]}}}', b"\xff" * 1000, b"[" * 100000):
        dashboard = Dashboard()
        dashboard.on("GET", "/api/v0/nodes", lambda *_, text=text: (200, text))
        fails(dashboard, "Ray's list of nodes", within_s=3)


def test_second_job_is_refused():
    dashboard = Dashboard()
    dashboard.on(
        "POST", "/api/jobs/$", lambda _, body: (500, b"Traceback:\n  x\nRuntimeError: no such luck\n") if IDS[1].encode() in body else None
    )
    fails(dashboard, "node 1 (127.0.0.2)", "status 500: RuntimeError: no such luck")
    assert len(dashboard.submitted) == 1 and dashboard.stopped == dashboard.deleted == list(dashboard.jobs)


def test_worker_cannot_start():
    dashboard = Dashboard()
    fails(dashboard, "has ended (FAILED, exit status 127)", "/nowhere/shoal", SHOAL_BINARY="/nowhere/shoal")
    dashboard = Dashboard()
    fails(dashboard, "node 1", "exit status 3", "first line", "last words of slot 1", SHOAL_STANDIN="die", SHOAL_STANDIN_SLOT="1")
    dashboard = Dashboard()
    # Both workers are of the foreign build: which of them is named depends on who connects first.
    fails(dashboard, "(127.0.0.", "its worker was refused: it is build stand-in 2, this driver is build stand-in 1", SHOAL_STANDIN="build")


def test_worker_never_connects():
    dashboard = Dashboard()
    output = fails(
        dashboard,
        "node 1 (127.0.0.2): job RUNNING on Ray, but its worker has not connected to 127.0.0.1:",
        "is that port reachable",
        args=("--timeout", "3"),
        SHOAL_STANDIN="mute",
        SHOAL_STANDIN_SLOT="1",
    )
    assert "node 0 (127.0.0.1): job" not in output


def test_job_stays_pending():
    dashboard = Dashboard()
    dashboard.on("POST", "/api/jobs/$", lambda _, body: (200, {"submission_id": "x"}) if IDS[1].encode() in body else None)
    dashboard.on(
        "GET",
        "/api/jobs/.*-1$",
        lambda *_: (200, {"status": "STOPPED" if any(j.endswith("-1") for j in stops) else "PENDING", "message": "waiting"}),
    )
    stops = []
    dashboard.on("POST", "/api/jobs/.*-1/stop", lambda path, _: stops.append(path.split("/")[3]) or (200, {"stopped": True}))
    fails(dashboard, "node 1 (127.0.0.2)", "is still PENDING on Ray after 3 s: are its 2 CPUs taken", args=("--timeout", "3"))
    assert stops


def test_job_is_forgotten():
    dashboard = Dashboard()
    probe, _ = runs(dashboard)
    victim = sorted(dashboard.jobs)[1]
    process = dashboard.jobs.pop(victim)
    output = ends(probe, dashboard, 1)
    assert f"Ray no longer knows its job {victim}" in output, output
    assert process.wait(5) is not None


def test_worker_ends_while_running():
    dashboard = Dashboard()
    probe, _ = runs(dashboard, SHOAL_STANDIN="leave", SHOAL_STANDIN_SLOT="1")
    output = ends(probe, dashboard, 1)
    assert "exit status 4" in output and "gone on purpose" in output, output


def test_dashboard_goes_deaf_and_comes_back():
    dashboard = Dashboard()
    probe, _ = runs(dashboard)
    dashboard.on("GET", "/api/jobs/", lambda *_: (502, b"Bad Gateway"))
    time.sleep(3)
    assert probe.poll() is None  # the launch goes on
    dashboard.hooks.clear()
    output = ends(probe, dashboard)
    assert "status 502: Bad Gateway" in output and output.count("Cannot ask how job") <= 4, output


def test_ship_binary():
    dashboard = Dashboard()

    def run_unpacked(_, body):
        order = json.loads(body)
        assert order["runtime_env"]["working_dir"].startswith("gcs://_ray_pkg_") and order["entrypoint"].startswith(
            "exec './shoal' 'worker'"
        )
        folder = tempfile.mkdtemp(dir=LOGS)
        with open(os.path.join(folder, "package.zip"), "wb") as file:
            file.write(next(iter(dashboard.uploads.values())))
        subprocess.run([sys.executable, "-m", "zipfile", "-e", "package.zip", "."], cwd=folder, check=True)
        os.chmod(os.path.join(folder, "shoal"), 0o755)  # Python's zipfile forgets modes; Ray does not (tests/nodes)
        order["entrypoint"] = f"cd {folder} && {order['entrypoint']}"
        return dashboard.submit(order)

    dashboard.on("POST", "/api/jobs/$", run_unpacked)
    for _ in range(2):
        probe, output = runs(dashboard, "--ship")
        ends(probe, dashboard)
    assert len(dashboard.uploads) == 1 and "Uploading" not in output
    dashboard = Dashboard()
    dashboard.on("PUT", "/api/packages/", lambda *_: (500, b"disk full"))
    fails(dashboard, "shipping", "disk full", args=("--ship",))


def test_cancelled():
    dashboard = Dashboard()
    probe = start(dashboard, SHOAL_STANDIN="mute")
    time.sleep(1.5)
    probe.send_signal(signal.SIGTERM)
    output = ends(probe, dashboard, 1)
    assert "stopped while the nodes joined" in output, output


for name, test in list(globals().items()):
    if name.startswith("test_"):
        began = time.monotonic()
        test()
        print(f"{name}: ok ({time.monotonic() - began:.1f} s)", flush=True)
