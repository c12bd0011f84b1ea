"""Golden numbers for a GGUF Llama: a plain float32 decoder in numpy over the dequantised weights, one token after the other, no cache tricks.

usage: gguf_reference.py MODEL.gguf OUT.json    (needs numpy, gguf and tokenizers)

Another engine on the same file is no reference: it rounds activations too, and differs in the second decimal of a logit.
"""
import json
import sys

import numpy as np
from gguf import GGUFReader, dequantize
from tokenizers import Tokenizer, models, pre_tokenizers

PROMPTS = [
    "<|im_start|>system\nYou are a helpful AI assistant named SmolLM, trained by Hugging Face<|im_end|>\n"
    "<|im_start|>user\nWhat is the capital of France?<|im_end|>\n<|im_start|>assistant\n",
    "The three primary colours are",
]
N_GREEDY, N_TOP = 32, 20

reader = GGUFReader(sys.argv[1])


def field(name):
    return reader.fields[name].contents()


weights = {t.name: dequantize(t.data, t.tensor_type).astype(np.float32) for t in reader.tensors}
n_layers, n_heads, n_kv = (field("llama." + k) for k in ("block_count", "attention.head_count", "attention.head_count_kv"))
eps, theta = field("llama.attention.layer_norm_rms_epsilon"), field("llama.rope.freq_base")
hidden = field("llama.embedding_length")
dim = hidden // n_heads

names = field("tokenizer.ggml.tokens")
tokenizer = Tokenizer(models.BPE({t: i for i, t in enumerate(names)}, [tuple(m.split(" ")) for m in field("tokenizer.ggml.merges")]))
tokenizer.pre_tokenizer = pre_tokenizers.Sequence([pre_tokenizers.Digits(individual_digits=True), pre_tokenizers.ByteLevel(add_prefix_space=False)])
tokenizer.add_special_tokens([t for t, kind in zip(names, field("tokenizer.ggml.token_type")) if kind == 3])


def norm(x, w):
    return x / np.sqrt((x * x).mean(-1, keepdims=True) + np.float32(eps)) * w


def rotate(x):  # [tokens, heads, dim], adjacent pairs
    angle = np.outer(np.arange(len(x)), theta ** (-2.0 * np.arange(dim // 2) / dim))[:, None]
    c, s = np.cos(angle).astype(np.float32), np.sin(angle).astype(np.float32)
    a, b = x[..., 0::2], x[..., 1::2]
    return np.stack([a * c - b * s, a * s + b * c], -1).reshape(x.shape)


def logits(ids):
    """Of every position: [tokens, vocabulary]."""
    x = weights["token_embd.weight"][ids]
    causal = np.triu(np.full((len(ids), len(ids)), -np.inf, np.float32), 1)
    for i in range(n_layers):
        w = {k: weights[f"blk.{i}.{k}.weight"] for k in ("attn_norm", "attn_q", "attn_k", "attn_v", "attn_output", "ffn_norm", "ffn_gate", "ffn_up", "ffn_down")}
        h = norm(x, w["attn_norm"])
        q = rotate((h @ w["attn_q"].T).reshape(-1, n_heads, dim))
        k = rotate((h @ w["attn_k"].T).reshape(-1, n_kv, dim)).repeat(n_heads // n_kv, 1)
        v = (h @ w["attn_v"].T).reshape(-1, n_kv, dim).repeat(n_heads // n_kv, 1)
        score = np.einsum("thd,shd->hts", q, k) / np.float32(np.sqrt(dim)) + causal
        score = np.exp(score - score.max(-1, keepdims=True))
        score /= score.sum(-1, keepdims=True)
        x = x + np.einsum("hts,shd->thd", score, v).reshape(len(ids), -1) @ w["attn_output"].T
        h = norm(x, w["ffn_norm"])
        gate = h @ w["ffn_gate"].T
        x = x + (gate / (1 + np.exp(-gate)) * (h @ w["ffn_up"].T)) @ w["ffn_down"].T
    return norm(x, weights["output_norm.weight"]) @ weights["token_embd.weight"].T


cases = []
for prompt in PROMPTS:
    ids = tokenizer.encode(prompt).ids
    seq = list(ids)
    for _ in range(N_GREEDY):
        seq.append(int(logits(seq)[-1].argmax()))
    rows = logits(seq[:-1])[len(ids) - 1:]
    steps = []
    for row in rows:
        top = np.argsort(-row)[:N_TOP]
        steps.append({"ids": top.tolist(), "logits": [round(float(v), 4) for v in row[top]]})
    text = tokenizer.decode(seq[len(ids):], skip_special_tokens=False)
    print(repr(bytes(b for ch in text for b in ch.encode()).decode()))
    cases.append({"prompt": prompt, "prompt_token_ids": ids, "greedy_token_ids": seq[len(ids):], "top": steps})
with open(sys.argv[2], "w", encoding="utf-8") as out:
    json.dump({"model": sys.argv[1].split("/")[-1], "dtype": "float32 of the dequantised weights", "cases": cases}, out, separators=(",", ":"))
    out.write("\n")
