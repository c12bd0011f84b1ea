"""The container image: built from scratch with buildah, a model served inside, its answer compared. And what run-node.sh would run.

    test_image.py PATH_OF_SHOAL
"""

import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
import urllib.request

BINARY = os.path.abspath(sys.argv[1])
HERE = os.path.dirname(os.path.abspath(__file__))
DEPLOY = os.path.join(HERE, "..", "..", "deploy")
DATA = os.path.abspath(os.path.join(HERE, "..", "data"))
MODEL = os.path.join(DATA, "models", "tiny-qwen3")
with open(os.path.join(DATA, "golden", "tiny-qwen3-public.json")) as file:
    CASE = json.load(file)["cases"][0]


def run(*args, env=None, timeout=80):
    done = subprocess.run(args, capture_output=True, text=True, timeout=timeout, env={**os.environ, **(env or {})})
    assert done.returncode == 0, f"{' '.join(args)}: status {done.returncode}\n{done.stdout}{done.stderr}"
    return done.stdout.strip()


def free_port():
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        return sock.getsockname()[1]


def ask(port):
    body = {
        "model": "tiny",
        "prompt": CASE["prompt_token_ids"],
        "max_tokens": len(CASE["greedy_token_ids"]),
        "temperature": 0,
        "ignore_eos": True,
        "return_token_ids": True,
    }
    request = urllib.request.Request(
        f"http://127.0.0.1:{port}/v1/completions", json.dumps(body).encode(), {"Content-Type": "application/json"}
    )
    with urllib.request.build_opener(urllib.request.ProxyHandler({})).open(request, timeout=30) as answer:
        return json.load(answer)["choices"][0]["token_ids"]


def test_image(folder):
    store = ["--storage-driver", "vfs", "--root", os.path.join(folder, "store"), "--runroot", os.path.join(folder, "run")]
    buildah = ["buildah", *store]
    run(os.path.join(DEPLOY, "build-image.sh"), BINARY, "shoal-test", env={"ENGINE": "buildah", "ENGINE_ARGS": " ".join(store)})
    container = run(*buildah, "from", "--pull-never", "shoal-test")
    assert run(*buildah, "run", "--isolation", "chroot", container, "--", "/usr/local/bin/shoal", "version").startswith("shoal ")
    root = run(*buildah, "mount", container)
    assert not os.path.exists(os.path.join(root, "bin/sh")), "nothing but the program and its libraries"
    size = sum(os.lstat(os.path.join(at, name)).st_size for at, _, names in os.walk(root) for name in names)
    assert size < 60e6 + os.path.getsize(BINARY), size
    port = free_port()
    # Two ranks, so that the program also runs itself again inside.
    serve = ["/usr/local/bin/shoal", "serve", "/model", "--served-model-name", "tiny", "--host", "127.0.0.1", "--port", str(port),
             "-tp", "2", "--threads", "1", "--max-model-len", "256", "--kv-cache-memory-bytes", "4MiB"]
    log_path = os.path.join(folder, "serve.log")
    with open(log_path, "wb") as log:
        server = subprocess.Popen(
            [*buildah, "run", "--isolation", "chroot", "--volume", f"{MODEL}:/model:ro", container, "--", *serve],
            stdout=log, stderr=log, stdin=subprocess.DEVNULL, start_new_session=True,
        )
    try:
        end = time.monotonic() + 60
        while True:
            try:
                got = ask(port)
                break
            except OSError as error:
                with open(log_path, errors="replace") as log:
                    assert server.poll() is None and time.monotonic() < end, f"{error}\n{log.read()}"
                time.sleep(0.2)
        assert got == CASE["greedy_token_ids"], (got, CASE["greedy_token_ids"])
    finally:
        os.killpg(server.pid, signal.SIGTERM)
        try:
            server.wait(15)
        except subprocess.TimeoutExpired:
            os.killpg(server.pid, signal.SIGKILL)
            server.wait()
        subprocess.run([*buildah, "rm", container], capture_output=True, timeout=30)


def test_run_node(folder):
    system, env = os.path.join(folder, "system"), {"DRY_RUN": "1", "ENGINE": "podman", "MODEL_CACHE": "/data/hub", "HF_TOKEN": "secret word"}
    script = os.path.join(DEPLOY, "run-node.sh")
    plain = run(script, "--address", "10.0.0.1:6379", env={**env, "SYSTEM_ROOT": system})
    assert plain.endswith("shoal-node:latest node start --block --address 10.0.0.1:6379"), plain
    assert "--network host" in plain and "--ipc host" in plain and "--volume /data/hub:/data/hub" in plain, plain
    assert "--device" not in plain and "secret" not in plain and "--env HF_TOKEN" in plain, plain
    for path in ("dev/davinci0", "dev/davinci1", "dev/davinci_manager", "dev/hisi_hdc", "etc/hccn.conf", "usr/local/dcmi/x"):
        os.makedirs(os.path.dirname(os.path.join(system, path)), exist_ok=True)
        open(os.path.join(system, path), "w").close()
    npus = run(script, "--head", env={**env, "SYSTEM_ROOT": system})
    for part in ("/dev/davinci0", "/dev/davinci1", "/dev/davinci_manager", "/dev/hisi_hdc"):
        assert f"--device {part} " in npus, npus
    assert "/etc/hccn.conf:/etc/hccn.conf:ro" in npus and "/usr/local/dcmi:/usr/local/dcmi:ro" in npus, npus
    assert "devmm_svm" not in npus, npus
    assert subprocess.run([script], capture_output=True).returncode == 2


def main():
    if os.geteuid() != 0 or shutil.which("buildah") is None:
        sys.exit("test_image: needs root and the program buildah (Debian: apt-get install buildah)")
    folder = tempfile.mkdtemp(prefix="shoal-image-")
    try:
        for test in (test_run_node, test_image):
            begin = time.monotonic()
            test(folder)
            print(f"{test.__name__}: ok ({time.monotonic() - begin:.1f} s)", flush=True)
    finally:
        shutil.rmtree(folder, ignore_errors=True)


main()
