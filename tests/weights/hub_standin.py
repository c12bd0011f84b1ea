"""A hub in one process, as far as shoal speaks to one: Hugging Face's and ModelScope's routes, with the faults of real ones.

Hub() listens on a free port of 127.0.0.1; its storage host listens on another, to which large files are redirected.
"""
import hashlib
import json
import sys
import threading
import time
import urllib.parse
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer


def git_hash(data):
    return hashlib.sha1(b"blob %d\0" % len(data) + data).hexdigest()


def sha256(data):
    return hashlib.sha256(data).hexdigest()


class QuietServer(ThreadingHTTPServer):
    daemon_threads = True

    def handle_error(self, request, client_address):
        if not isinstance(sys.exc_info()[1], ConnectionError):  # a client that goes away is part of the tests
            super().handle_error(request, client_address)


class Hub:
    def __init__(self):
        self.models = {}  # name → {revision: commit}
        self.commits = {}  # (name, commit) → {path: bytes}
        self.large_bytes = 4096  # larger files lie on the storage host, known by SHA-256
        self.log = []  # (host, method, path, headers)
        self.lock = threading.Lock()
        # Faults
        self.says_blobs = True  # the listing gives sizes and hashes
        self.knows_ranges = True
        self.break_after = None  # bytes after which an answer of the storage host is cut …
        self.n_breaks = 0  # … this many times
        self.pace_s = 0  # pause after each 4 kB of the storage host
        self.corrupt = set()  # paths whose content is not what the listing says
        self.extra_names = []  # further names in the listing
        self.status = {}  # model → status for every request
        self.n_unavailable = 0  # first requests that get 503
        self.needs_token = None
        self.moved = {}  # old name → new name, answered with a relative redirect
        self.servers = [self._serve("hub"), self._serve("storage")]
        self.url, self.storage_url = ("http://127.0.0.1:%d" % s.server_port for s in self.servers)

    def _serve(self, host):
        server = QuietServer(("127.0.0.1", 0), type("Handler", (Handler,), {"hub": self, "host": host}))
        threading.Thread(target=server.serve_forever, args=(0.05,), daemon=True).start()
        return server

    def close(self):
        for server in self.servers:
            server.shutdown()
            server.server_close()

    def publish(self, name, files, revision="main"):
        commit = hashlib.sha1((name + revision + "".join(sorted(files)) + str(len(self.commits))).encode()).hexdigest()
        self.models.setdefault(name, {})[revision] = commit
        self.commits[name, commit] = files
        return commit

    def find(self, name, revision):
        commit = self.models.get(name, {}).get(revision, revision)
        return commit, self.commits.get((name, commit))

    def requests(self, method="GET", part="", host=None):
        with self.lock:
            return [e for e in self.log if e[1] == method and part in e[2] and host in (None, e[0])]


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def log_message(self, *args):
        pass

    def do_HEAD(self):
        self.answer()

    def do_GET(self):
        self.answer()

    def answer(self):
        hub = self.hub
        with hub.lock:
            hub.log.append((self.host, self.command, self.path, dict(self.headers)))
            refuse = hub.n_unavailable > 0
            hub.n_unavailable -= refuse
        self.close_connection = True
        if refuse:
            return self.reply(503)
        url = urllib.parse.urlsplit(self.path)
        query = {k: v[0] for k, v in urllib.parse.parse_qs(url.query).items()}
        parts = [urllib.parse.unquote(p) for p in url.path.split("/")[1:]]
        if self.host == "storage":
            return self.send_file(hub.commits[parts[0] + "/" + parts[1], parts[2]]["/".join(parts[3:])], "/".join(parts[3:]), True)
        if parts[:3] == ["api", "v1", "models"]:
            return self.modelscope(parts, query)
        if parts[:2] == ["api", "models"] and parts[4:5] == ["revision"]:
            return self.list_files(parts[2] + "/" + parts[3], parts[5], query)
        if parts[2:3] == ["resolve"]:
            return self.resolve(parts[0] + "/" + parts[1], parts[3], "/".join(parts[4:]))
        return self.reply(404)

    def reply(self, status, body=b"", headers=()):
        self.send_response(status)
        for name, value in headers:
            self.send_header(name, value)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)

    def may_enter(self, name):
        hub = self.hub
        if name in hub.status:
            reasons = {401: "RepoNotFound", 403: "GatedRepo", 404: "RepoNotFound"}
            self.reply(hub.status[name], b"{}", [("X-Error-Code", reasons.get(hub.status[name], "Other"))])
            return False
        if hub.needs_token and self.headers.get("Authorization") != "Bearer " + hub.needs_token:
            self.reply(401, b"{}", [("X-Error-Message", "Invalid username or password.")])
            return False
        return True

    def list_files(self, name, revision, query):
        hub = self.hub
        if not self.may_enter(name):
            return
        if name in hub.moved:
            return self.reply(307, headers=[("Location", "/api/models/%s/revision/%s?blobs=true" % (hub.moved[name], revision))])
        commit, files = hub.find(name, revision)
        if files is None:
            return self.reply(404, b"{}", [("X-Error-Code", "RevisionNotFound" if name in hub.models else "RepoNotFound")])
        siblings = []
        for path, data in files.items():
            sibling = {"rfilename": path}
            if hub.says_blobs and query.get("blobs") == "true":
                sibling.update(size=len(data), blobId=git_hash(data))
                if len(data) > hub.large_bytes:
                    sibling.update(blobId="0" * 40, lfs={"sha256": sha256(data), "size": len(data), "pointerSize": 130})
            siblings.append(sibling)
        siblings += [{"rfilename": n, "size": 1, "blobId": "0" * 40} for n in hub.extra_names]
        self.reply(200, json.dumps({"id": name, "sha": commit, "siblings": siblings}).encode(), [("Content-Type", "application/json")])

    def resolve(self, name, revision, path):
        hub = self.hub
        if not self.may_enter(name):
            return
        if name in hub.moved:
            return self.reply(307, headers=[("Location", "/%s/resolve/%s/%s" % (hub.moved[name], revision, path))])
        commit, files = hub.find(name, revision)
        if files is None or path not in files:
            return self.reply(404, headers=[("X-Error-Code", "EntryNotFound")])
        data = files[path]
        if len(data) <= hub.large_bytes:
            return self.send_file(data, path, False, [("ETag", '"%s"' % git_hash(data)), ("X-Repo-Commit", commit)])
        place = "%s/%s/%s/%s?signature=secret" % (hub.storage_url, name, commit, urllib.parse.quote(path))
        self.reply(302, b"Found. Redirecting", [("Location", place), ("X-Repo-Commit", commit), ("X-Linked-Size", str(len(data))),
                                                ("X-Linked-Etag", '"%s"' % sha256(data)), ("ETag", '"of-the-redirect"')])

    def modelscope(self, parts, query):
        name, hub = parts[3] + "/" + parts[4], self.hub
        if not self.may_enter(name):
            return
        commit, files = hub.find(name, query.get("Revision", "master"))
        if files is None:
            return self.reply(404, json.dumps({"Code": 10010205001, "Message": "model not found", "Success": False}).encode())
        if parts[5:] == ["repo", "files"]:
            entries = [{"Name": p.split("/")[-1], "Path": p, "Type": "blob", "Size": len(d), "Sha256": sha256(d), "Revision": commit}
                       for p, d in files.items()]
            entries += [{"Name": p, "Path": p, "Type": "tree", "Size": 0} for p in {p.split("/")[0] for p in files if "/" in p}]
            entries += [{"Name": n, "Path": n, "Type": "blob", "Size": 1} for n in hub.extra_names]
            return self.reply(200, json.dumps({"Code": 200, "Data": {"Files": entries}, "Success": True}).encode())
        if parts[5:] == ["repo"] and query.get("FilePath") in files:
            return self.send_file(files[query["FilePath"]], query["FilePath"], True)
        return self.reply(404)

    def send_file(self, data, path, may_break, headers=()):
        hub = self.hub
        if path in hub.corrupt:
            data = bytes(data[:-1]) + bytes([data[-1] ^ 1])
        begin, status = 0, 200
        wanted = self.headers.get("Range")
        if wanted and hub.knows_ranges:
            begin, status = int(wanted.removeprefix("bytes=").rstrip("-")), 206
            if begin >= len(data):
                return self.reply(416)
        self.send_response(status)
        for name, value in headers:
            self.send_header(name, value)
        self.send_header("Content-Length", str(len(data) - begin))
        if status == 206:
            self.send_header("Content-Range", "bytes %d-%d/%d" % (begin, len(data) - 1, len(data)))
        self.end_headers()
        if self.command == "HEAD":
            return
        end = len(data)
        with hub.lock:
            if may_break and hub.n_breaks > 0:
                hub.n_breaks -= 1
                end = min(end, begin + hub.break_after)
        for at in range(begin, end, 4096):
            self.wfile.write(data[at:min(at + 4096, end)])
            if may_break and hub.pace_s:
                time.sleep(hub.pace_s)
