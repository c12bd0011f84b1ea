"""`shoal plan` and the check before a start, as a user meets them. usage: test_command.py SHOAL DATA [unittest arguments]"""
import json
import os
import shutil
import subprocess
import sys
import tempfile
import unittest

sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), "..", "weights"))
from hub_standin import Hub  # noqa: E402

SHOAL, DATA = (os.path.abspath(sys.argv.pop(1)) for _ in range(2))
FLAGSHIP = os.path.join(DATA, "configs", "Qwen--Qwen3-235B-A22B_config.json")
TINY = os.path.join(DATA, "models", "tiny-qwen3-moe")
# More than any machines have: 1024 layers of 4096 wide experts.
ENDLESS = json.dumps({"num_hidden_layers": 1024, "num_experts": 4096, "moe_intermediate_size": 1 << 20})


def run(*args, **env):
    return subprocess.run([SHOAL, *args], capture_output=True, text=True, timeout=120, env={**os.environ, **env})


class Plan(unittest.TestCase):
    def plan(self, *args, status=0, **env):
        done = run("plan", *args, **env)
        self.assertEqual(done.returncode, status, done.stdout + done.stderr)
        return done

    def as_json(self, *args, status=0):
        return json.loads(self.plan(*args, "--json", status=status).stdout)

    def test_flagship(self):
        args = [FLAGSHIP, "-tp", "8", "-pp", "2", "-ep", "--nodes", "2", "--memory-per-node", "320GB", "--max-model-len", "8192", "--max-num-seqs", "25"]
        plan = self.as_json(*args, "--memory-bandwidth", "40GB/s", "--batch", "4")
        self.assertEqual(plan["n_params"], 235093634560)
        self.assertEqual(plan["checkpoint_bytes"], 470187269120)
        self.assertTrue(plan["fits"])
        self.assertEqual(len(plan["ranks"]), 16)
        self.assertEqual(sum(r["weights_bytes"] for r in plan["ranks"]), plan["weights_bytes"])
        self.assertEqual([n["weights_bytes"] for n in plan["nodes"]], [sum(r["weights_bytes"] for r in plan["ranks"] if r["node"] == n) for n in (0, 1)])
        self.assertEqual(plan["kv_cache"], {"n_blocks": 12800, "block_size": 16, "n_tokens": 204800, "concurrency": 25.0})
        one, four = plan["decode"]
        self.assertEqual((one["batch"], four["batch"]), (1, 4))
        self.assertAlmostEqual(one["token_s"], (one["weights_bytes"] + one["kv_bytes"]) / 40e9 + one["links_s"], delta=1e-3)
        self.assertAlmostEqual(one["tokens_per_s"] * one["token_s"], 1, places=6)
        text = self.plan(*args).stdout
        self.assertIn("235.09 B parameters (22.19 B active), 470 GB", text)
        self.assertIn("Fits. KV cache: 12,800 blocks of 16 tokens = 204,800 tokens, 25.00 sequences of 8,192", text)
        self.assertLessEqual(max(map(len, text.splitlines())), 160)

    def test_stages_by_hand(self):
        args = [FLAGSHIP, "-tp", "8", "-pp", "2", "-ep", "-q", "int4", "--memory-per-node", "128GiB,64GiB", "--max-model-len", "8192", "--max-num-seqs", "8"]
        self.assertEqual(self.as_json(*args, status=1)["nodes"][1]["memory_bytes"], 64 << 30)
        plan = self.as_json(*args, "--pipeline-layers", "63,31")
        self.assertEqual([plan["ranks"][i]["layers"] for i in (0, 8)], [[0, 63], [63, 94]])
        for layers in ("63", "63,31,0", "63;31", "63,,31", "60,31"):
            self.plan(*args, "--pipeline-layers", layers, status=2)

    def test_too_small(self):
        args = [FLAGSHIP, "--memory-per-node", "24GB", "--max-model-len", "8192"]
        text = self.plan(*args, status=1).stdout
        self.assertIn("Does not fit: it needs 471 GB for weights", text)
        plan = self.as_json(*args, status=1)
        self.assertFalse(plan["fits"])
        smallest = plan["smallest"]
        self.as_json(*args, "-tp", str(smallest["tensor_parallel_size"]), "-pp", str(smallest["pipeline_parallel_size"]), "--nodes", str(smallest["nodes"]))

    def test_formats(self):
        dense = self.as_json(TINY)["weights_bytes"]
        eight, four = (self.as_json(TINY, "--quantization", q)["weights_bytes"] for q in ("int8", "int4"))
        self.assertTrue(four < eight < dense)
        self.assertEqual(self.as_json(TINY, "--load-format", "dummy")["weights_bytes"], dense)
        self.assertGreater(self.as_json(TINY, "--load-format", "dummy", "--dtype", "float32")["weights_bytes"], 1.9 * dense)
        self.assertEqual(self.as_json(TINY, "--hf-overrides", '{"num_hidden_layers": 3}')["ranks"][0]["layers"], [0, 3])
        fp8 = self.as_json(os.path.join(DATA, "configs", "Qwen--Qwen3-235B-A22B-FP8_config.json"), "--memory-per-node", "400GB", "--max-model-len", "4096")
        self.assertTrue(235e9 < fp8["weights_bytes"] < 240e9, fp8["weights_bytes"])

    def test_usage(self):
        for args in ([], [TINY, "-tp", "3"], [TINY, "--memory-per-node", "12 apples"], [TINY, "--nodes", "2"], [TINY, "--link-rate", "10"],
                     [TINY, "--nodes", "2", "-tp", "2", "--memory-per-node", "1GiB,2GiB,3GiB"], [TINY, "--memory-bandwidth", "40GB"],
                     [TINY, "--measure", "--memory-bandwidth", "40GB/s"], [TINY, "--max-model-len", "1000000"]):
            done = self.plan(*args, status=2)
            self.assertRegex(done.stderr, "^shoal plan: ")
        self.plan("/nowhere/at/all", status=1)
        self.assertIn("--memory-per-node", self.plan("--help").stdout)

    def test_measure(self):
        plan = self.as_json(TINY, "--measure")
        self.assertGreater(plan["nodes"][0]["bandwidth_bytes_per_s"], 1e8)
        self.assertGreater(plan["decode"][0]["tokens_per_s"], 0)


class Serve(unittest.TestCase):
    def test_refusal(self):
        done = run("serve", TINY, "--load-format", "dummy", "--hf-overrides", ENDLESS, "--port", "0")
        self.assertEqual(done.returncode, 1, done.stderr)
        self.assertIn("the model does not fit", done.stderr)
        self.assertIn("no split over up to 64 nodes", done.stderr)
        self.assertNotIn("Links between ranks", done.stderr)

    def test_refusal_before_a_download(self):
        hub = Hub()
        self.addCleanup(hub.close)
        folder = tempfile.mkdtemp()
        self.addCleanup(shutil.rmtree, folder)
        with open(FLAGSHIP, encoding="utf-8") as file:
            config = json.load(file) | json.loads(ENDLESS)
        hub.publish("big/model", {"config.json": json.dumps(config).encode(), "model.safetensors": b"w" * 100000, "tokenizer.json": b"{}"})
        env = {"HF_HOME": folder, "HF_ENDPOINT": hub.url, "HF_HUB_CACHE": os.path.join(folder, "hub"), "HF_HUB_OFFLINE": "0"}
        done = run("serve", "big/model", "--port", "0", **env)
        self.assertEqual(done.returncode, 1, done.stderr)
        self.assertIn("the model does not fit", done.stderr)
        done = run("plan", "big/model", "--max-model-len", "4096", **env)
        self.assertEqual(done.returncode, 1, done.stderr)
        self.assertIn("Does not fit", done.stdout)
        for part in ("safetensors", "tokenizer"):
            self.assertEqual(hub.requests(part=part), [])
        self.assertNotEqual(hub.requests(part="config.json"), [])
        done = run("plan", "other/file:Q4_K_M", **env)
        self.assertEqual(done.returncode, 1, done.stderr)


if __name__ == "__main__":
    unittest.main()
