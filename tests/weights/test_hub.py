"""Downloads from a stand-in hub with every fault that a real one shows. usage: test_hub.py HUB_RESOLVE [unittest arguments]"""
import hashlib
import os
import random
import signal
import subprocess
import sys
import tempfile
import time
import unittest

from hub_standin import Hub, git_hash, sha256

RESOLVE = os.path.abspath(sys.argv.pop(1))
LARGE = random.Random(1).randbytes(300_000)
OTHER = random.Random(2).randbytes(200_000)
INDEX = b'{"weight_map": {"a": "model-00001-of-00002.safetensors", "b": "model-00002-of-00002.safetensors"}}'


def small_model():
    return {".gitattributes": b"x", "README.md": b"read me", "config.json": b'{"a": 1}', "generation_config.json": b"{}",
            "tokenizer.json": b"t" * 5000, "tokenizer_config.json": b"{}", "vocab.json": b"{}", "merges.txt": b"m",
            "chat_template.jinja": b"c", "pytorch_model.bin": b"p" * 9000, "original/consolidated.00.pth": b"o",
            "consolidated.safetensors": b"again", "model.safetensors": LARGE}


NEEDED = ["chat_template.jinja", "config.json", "generation_config.json", "merges.txt", "model.safetensors", "tokenizer.json",
          "tokenizer_config.json", "vocab.json"]


class Case(unittest.TestCase):
    def setUp(self):
        self.hub = Hub()
        self.addCleanup(self.hub.close)
        folder = tempfile.TemporaryDirectory()
        self.addCleanup(folder.cleanup)
        self.home = folder.name
        self.cache = os.path.join(self.home, "hf", "hub")
        self.env = {"PATH": os.environ["PATH"], "HOME": self.home, "HF_HOME": os.path.join(self.home, "hf"), "HF_ENDPOINT": self.hub.url,
                    "MODELSCOPE_ENDPOINT": self.hub.url}
        for name in ("ASAN_OPTIONS", "UBSAN_OPTIONS", "TSAN_OPTIONS"):
            if name in os.environ:
                self.env[name] = os.environ[name]

    def start(self, *args, **env):
        return subprocess.Popen([RESOLVE, *args], env={**self.env, **env}, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)

    def resolve(self, *args, **env):
        process = self.start(*args, **env)
        out, self.said = process.communicate(timeout=60)
        self.assertEqual(process.returncode, 0, out + self.said)
        return out.rstrip("\n")

    def refuse(self, *args, **env):
        process = self.start(*args, **env)
        out, self.said = process.communicate(timeout=60)
        self.assertEqual(process.returncode, 1, out + self.said)
        return out

    def content(self, *parts):
        with open(os.path.join(*parts), "rb") as file:
            return file.read()


class HuggingFace(Case):
    def test_layout(self):
        files = small_model()
        commit = self.hub.publish("Qwen/Tiny-0.5B", files)
        path = self.resolve("Qwen/Tiny-0.5B")
        repo = os.path.join(self.cache, "models--Qwen--Tiny-0.5B")
        self.assertEqual(path, os.path.join(repo, "snapshots", commit))
        self.assertEqual(sorted(os.listdir(path)), NEEDED)
        for name in NEEDED:
            self.assertEqual(self.content(path, name), files[name])
        self.assertEqual(self.content(repo, "refs", "main"), commit.encode())
        self.assertEqual(os.readlink(os.path.join(path, "model.safetensors")), "../../blobs/" + sha256(LARGE))
        self.assertEqual(os.readlink(os.path.join(path, "config.json")), "../../blobs/" + git_hash(files["config.json"]))
        self.assertEqual([n for n in os.listdir(os.path.join(repo, "blobs")) if "." in n], [])
        # Again: asks what there is, fetches nothing.
        before = len(self.hub.requests(part="resolve"))
        self.assertEqual(self.resolve("Qwen/Tiny-0.5B"), path)
        self.assertEqual(len(self.hub.requests(part="resolve")), before)

    def test_local_paths_need_no_hub(self):
        self.assertEqual(self.resolve(self.home), self.home)
        self.assertIn("neither an existing folder or file", self.refuse("./no/such/model"))
        self.assertIn("neither an existing folder or file", self.refuse("gpt2"))
        self.assertIn("ORG/NAME", self.refuse("../x/y"))
        self.assertIn("neither", self.refuse("org/.."))
        self.assertIn("neither", self.refuse("org/name:../x.gguf"))
        self.assertEqual(self.hub.log, [])

    def test_download_dir_and_revision(self):
        self.hub.publish("org/m", {**small_model(), "config.json": b"main"})
        commit = self.hub.publish("org/m", {**small_model(), "config.json": b"branch"}, "refs/pr/1")
        other = os.path.join(self.home, "elsewhere")
        path = self.resolve("org/m", "refs/pr/1", other)
        self.assertEqual(self.content(path, "config.json"), b"branch")
        self.assertEqual(self.content(other, "models--org--m", "refs", "refs", "pr", "1"), commit.encode())
        self.assertIn("is not the name of a branch", self.refuse("org/m", "../../x"))
        self.assertIn("not found", self.refuse("org/m", "nothing"))

    def test_no_network_when_complete(self):
        commit = self.hub.publish("org/m", small_model())
        self.assertIn("HF_HUB_OFFLINE", self.refuse("org/m", HF_HUB_OFFLINE="1"))
        path = self.resolve("org/m")
        n = len(self.hub.log)
        self.assertEqual(self.resolve("org/m", HF_HUB_OFFLINE="1"), path)
        self.assertEqual(self.resolve("org/m", commit), path)  # a commit cannot move
        self.assertEqual(len(self.hub.log), n)
        self.assertEqual(self.resolve("org/m", HF_ENDPOINT="http://127.0.0.1:1"), path)
        self.assertIn("earlier", self.said)
        os.unlink(os.path.join(path, "model.safetensors"))
        self.assertIn("not complete", self.refuse("org/m", HF_HUB_OFFLINE="1"))

    def test_shards_must_all_be_there(self):
        files = {"config.json": b"{}", "model.safetensors.index.json": INDEX, "model-00001-of-00002.safetensors": LARGE,
                 "model-00002-of-00002.safetensors": OTHER}
        self.hub.publish("org/m", files)
        path = self.resolve("org/m")
        self.assertEqual(sorted(os.listdir(path)), sorted(files))
        os.unlink(os.path.join(path, "model-00002-of-00002.safetensors"))
        self.assertIn("not complete", self.refuse("org/m", HF_HUB_OFFLINE="1"))
        self.assertEqual(self.resolve("org/m"), path)  # the blob is still there: a link is enough
        self.assertEqual(len(self.hub.requests(part="model-00002", host="storage")), 1)

    def test_a_branch_moves(self):
        self.hub.publish("org/m", small_model())
        first = self.resolve("org/m")
        self.hub.publish("org/m", {**small_model(), "config.json": b"new"})
        second = self.resolve("org/m")
        self.assertNotEqual(first, second)
        self.assertEqual(self.content(second, "config.json"), b"new")
        self.assertEqual(len(self.hub.requests(part="model.safetensors", host="storage")), 1)

    def test_token(self):
        self.hub.publish("org/m", small_model())
        self.hub.needs_token = "hf_secret"
        self.assertIn("set HF_TOKEN", self.refuse("org/m"))
        said = self.refuse("org/m", HF_TOKEN="hf_wrong")
        self.assertIn("the token in HF_TOKEN", said)
        self.assertIn("Invalid username or password", said)
        self.resolve("org/m", HF_TOKEN="hf_secret")
        storage = self.hub.requests(host="storage")
        self.assertTrue(storage)
        for _, _, _, headers in storage:
            self.assertNotIn("Authorization", headers)
        os.makedirs(os.path.join(self.home, "hf2"))
        with open(os.path.join(self.home, "hf2", "token"), "w") as file:
            file.write("hf_secret\n")
        self.resolve("org/m", HF_HOME=os.path.join(self.home, "hf2"))
        self.assertNotIn("hf_secret", self.said)

    def test_refusals_advise(self):
        for status, part in ((401, "check the spelling"), (403, "accept its conditions at " + self.hub.url + "/org/m"),
                             (404, "check the spelling")):
            self.hub.status["org/m"] = status
            said = self.refuse("org/m")
            self.assertIn(part, said)
            self.assertIn("as a name on a hub", said)
            self.assertEqual(len(self.hub.requests()), 1)  # trying again would not help
            self.hub.log.clear()
        self.hub.publish("org/bin", {"config.json": b"{}", "pytorch_model.bin": b"p"})
        self.assertIn("no weights that shoal reads (.safetensors or .gguf)", self.refuse("org/bin"))

    def test_listing_without_hashes(self):
        self.hub.says_blobs = False
        self.hub.publish("org/m", small_model())
        path = self.resolve("org/m")
        self.assertEqual(sorted(os.listdir(path)), NEEDED)
        self.assertEqual(os.readlink(os.path.join(path, "model.safetensors")), "../../blobs/" + sha256(LARGE))
        self.assertEqual(os.readlink(os.path.join(path, "merges.txt")), "../../blobs/" + git_hash(b"m"))

    def test_renamed_model(self):
        self.hub.publish("new/name", small_model())
        self.hub.moved["old/name"] = "new/name"
        path = self.resolve("old/name")
        self.assertEqual(self.content(path, "model.safetensors"), LARGE)
        self.hub.says_blobs = False
        self.assertEqual(self.content(self.resolve("old/name", "", os.path.join(self.home, "b")), "model.safetensors"), LARGE)

    def test_busy_hub(self):
        self.hub.publish("org/m", small_model())
        self.hub.n_unavailable = 2
        self.resolve("org/m")
        self.assertIn("503", self.said)

    def test_hostile_names(self):
        self.hub.publish("org/m", small_model())
        for name in ("../evil.safetensors", "/etc/evil.safetensors", "a/../../evil.safetensors", "a//b", "..", "a\\..\\b", "a/.hidden/b"):
            self.hub.extra_names = [name]
            self.assertIn("refusing the file name", self.refuse("org/m"), name)
        for commit in ("../../x", "", ".git", "a/b" * 10):
            self.hub.extra_names = []
            self.hub.models["org/m"]["main"] = commit
            self.hub.commits["org/m", commit] = small_model()
            self.assertIn("names no commit", self.refuse("org/m"), commit)
        self.assertFalse(os.path.exists(os.path.join(self.cache, "models--org--m", "snapshots")))


class Transfers(Case):
    def setUp(self):
        super().setUp()
        self.hub.publish("org/m", small_model())

    def check(self, path):
        self.assertEqual(self.content(path, "model.safetensors"), LARGE)

    def ranges(self):
        return [e[3].get("Range") for e in self.hub.requests(part="model.safetensors", host="storage")]

    def test_breaks_are_resumed(self):
        self.hub.break_after, self.hub.n_breaks = 70_000, 3
        self.hub.large_bytes = 100_000
        self.check(self.resolve("org/m"))
        self.assertEqual(self.ranges(), [None, "bytes=70000-", "bytes=140000-", "bytes=210000-"])

    def test_endless_breaks_end(self):
        self.hub.break_after, self.hub.n_breaks = 0, 1000
        self.hub.large_bytes = 100_000
        self.assertIn("downloading model.safetensors of org/m", self.refuse("org/m"))
        self.assertEqual(len(self.ranges()), 5)

    def test_killed_and_started_again(self):
        self.hub.large_bytes = 100_000
        self.hub.pace_s = 0.02
        process = self.start("org/m")
        blob = os.path.join(self.cache, "models--org--m", "blobs", sha256(LARGE))
        deadline = time.monotonic() + 30
        while time.monotonic() < deadline:
            if os.path.exists(blob + ".incomplete") and os.path.getsize(blob + ".incomplete") > 50_000:
                break
            time.sleep(0.01)
        process.send_signal(signal.SIGKILL)
        process.communicate()
        there = os.path.getsize(blob + ".incomplete")
        self.assertGreater(there, 50_000)
        self.assertFalse(os.path.exists(blob))
        self.hub.pace_s = 0
        self.check(self.resolve("org/m"))
        self.assertEqual(self.ranges()[1], "bytes=%d-" % there)

    def leave_incomplete(self, data):
        folder = os.path.join(self.cache, "models--org--m", "blobs")
        os.makedirs(folder)
        with open(os.path.join(folder, sha256(LARGE) + ".incomplete"), "wb") as file:
            file.write(data)

    def test_hub_without_ranges(self):
        self.hub.knows_ranges = False
        self.leave_incomplete(LARGE[:1000])
        self.check(self.resolve("org/m"))

    def test_wrong_rest_of_an_earlier_run(self):
        self.leave_incomplete(b"x" * 1000)
        self.check(self.resolve("org/m"))
        self.assertEqual(self.ranges(), ["bytes=1000-", None])

    def test_too_long_rest_of_an_earlier_run(self):
        self.leave_incomplete(LARGE + b"more")
        self.check(self.resolve("org/m"))

    def test_whole_rest_of_an_earlier_run(self):
        self.leave_incomplete(LARGE)
        self.check(self.resolve("org/m"))
        self.assertEqual(self.ranges(), [])

    def test_wrong_hash(self):
        self.hub.corrupt = {"model.safetensors"}
        said = self.refuse("org/m")
        self.assertIn("SHA-256 is", said)
        self.assertIn("instead of " + sha256(LARGE), said)
        self.assertEqual(self.ranges(), [None, None])
        self.assertFalse(os.path.exists(os.path.join(self.cache, "models--org--m", "blobs", sha256(LARGE))))
        self.hub.corrupt = {"config.json"}
        self.hub.publish("org/n", small_model())
        self.assertIn("git hash is", self.refuse("org/n"))
        self.hub.corrupt = set()
        self.check(self.resolve("org/m"))
        self.check(self.resolve("org/n"))

    def test_two_processes_fetch_once(self):
        self.hub.pace_s = 0.01
        both = [self.start("org/m") for _ in range(2)]
        outs = [p.communicate(timeout=60) for p in both]
        self.assertEqual([p.returncode for p in both], [0, 0], outs)
        self.assertEqual(outs[0][0], outs[1][0])
        self.assertEqual(self.ranges(), [None])
        self.check(outs[0][0].rstrip("\n"))


class Gguf(Case):
    FILES = {"README.md": b"r", "m-Q4_0.gguf": b"4" * 9000, "m-Q8_0.gguf": b"8" * 9000, "mmproj-f16.gguf": b"v",
             "big/m-BF16-00001-of-00002.gguf": b"1" * 9000, "big/m-BF16-00002-of-00002.gguf": b"2" * 9000}

    def setUp(self):
        super().setUp()
        self.commit = self.hub.publish("org/m-GGUF", self.FILES)
        self.folder = os.path.join(self.cache, "models--org--m-GGUF", "snapshots", self.commit)

    def test_one_of_several(self):
        said = self.refuse("org/m-GGUF")
        self.assertIn("m-Q4_0.gguf", said)
        self.assertIn("m-Q8_0.gguf", said)
        self.assertNotIn("mmproj", said)
        self.assertIn("there is no GGUF file m-Q5_0.gguf", self.refuse("org/m-GGUF:m-Q5_0.gguf"))
        self.assertEqual(self.resolve("org/m-GGUF:m-Q4_0.gguf"), os.path.join(self.folder, "m-Q4_0.gguf"))
        self.assertEqual(os.listdir(self.folder), ["m-Q4_0.gguf"])
        self.assertEqual(self.resolve("org/m-GGUF:q8_0"), os.path.join(self.folder, "m-Q8_0.gguf"))
        self.assertEqual(self.resolve("org/m-GGUF:Q8_0", HF_HUB_OFFLINE="1"), os.path.join(self.folder, "m-Q8_0.gguf"))

    def test_split(self):
        first = os.path.join(self.folder, "big", "m-BF16-00001-of-00002.gguf")
        self.assertEqual(self.resolve("org/m-GGUF:BF16"), first)
        self.assertEqual(self.resolve("org/m-GGUF:big/m-BF16-00001-of-00002.gguf", HF_HUB_OFFLINE="1"), first)
        self.assertEqual(self.content(self.folder, "big", "m-BF16-00002-of-00002.gguf"), b"2" * 9000)
        os.unlink(os.path.join(self.folder, "big", "m-BF16-00002-of-00002.gguf"))
        self.assertIn("not complete", self.refuse("org/m-GGUF:BF16", HF_HUB_OFFLINE="1"))

    def test_the_only_one(self):
        commit = self.hub.publish("org/one", {"README.md": b"r", "one.gguf": b"1" * 5000})
        path = os.path.join(self.cache, "models--org--one", "snapshots", commit, "one.gguf")
        self.assertEqual(self.resolve("org/one"), path)


class ModelScope(Case):
    def setUp(self):
        super().setUp()
        self.env["SHOAL_USE_MODELSCOPE"] = "1"
        self.files = {**small_model(), "sub/more.safetensors": b"m"}
        self.hub.publish("Qwen/Tiny-0.5B", self.files, "master")
        self.folder = os.path.join(self.home, ".cache", "modelscope", "hub", "models", "Qwen", "Tiny-0___5B")

    def test_layout(self):
        self.assertEqual(self.resolve("Qwen/Tiny-0.5B"), self.folder)
        self.assertEqual(sorted(os.listdir(self.folder)), NEEDED)
        for name in NEEDED:
            self.assertEqual(self.content(self.folder, name), self.files[name])
        n = len(self.hub.log)
        self.resolve("Qwen/Tiny-0.5B")
        self.assertEqual(len(self.hub.log), n + 1)
        self.hub.publish("Qwen/Tiny-0.5B", {**self.files, "config.json": b'{"b": 2}'}, "master")  # of the same size
        self.resolve("Qwen/Tiny-0.5B")
        self.assertEqual(self.content(self.folder, "config.json"), b'{"b": 2}')
        self.assertEqual(self.resolve("Qwen/Tiny-0.5B", MODELSCOPE_ENDPOINT="http://127.0.0.1:1"), self.folder)

    def test_cache_and_other_switch(self):
        del self.env["SHOAL_USE_MODELSCOPE"]
        path = self.resolve("Qwen/Tiny-0.5B", VLLM_USE_MODELSCOPE="true", MODELSCOPE_CACHE=os.path.join(self.home, "ms"))
        self.assertEqual(path, os.path.join(self.home, "ms", "models", "Qwen", "Tiny-0___5B"))

    def test_breaks_hashes_and_names(self):
        self.hub.break_after, self.hub.n_breaks = 100_000, 2
        self.hub.corrupt = {"model.safetensors"}
        self.assertIn("SHA-256 is", self.refuse("Qwen/Tiny-0.5B"))
        self.assertFalse(os.path.exists(os.path.join(self.folder, "model.safetensors")))
        self.hub.corrupt = set()
        self.resolve("Qwen/Tiny-0.5B")
        self.hub.extra_names = ["../x"]
        self.assertIn("refusing the file name", self.refuse("Qwen/Tiny-0.5B"))
        self.assertIn("check the spelling", self.refuse("Qwen/Nothing"))


if __name__ == "__main__":
    unittest.main()
