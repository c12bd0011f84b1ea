#!/usr/bin/env python3
"""Writes a GGUF file of a real geometry with random weights, for speed comparisons on the same file.
usage: make-gguf.py CONFIG_JSON TYPE OUT.gguf [--layers N]     TYPE: BF16, Q8_0, Q4_0, Q4_K, Q6_K
Needs the packages numpy and gguf. The output tensor (or tied embedding) is Q6_K for the 4-bit types, as llama-quantize does."""
import argparse
import json

import gguf
import numpy

T = gguf.GGMLQuantizationType


def random_rows(rng, kind, n_rows, n_cols):
    """Blocks of random weights of about 1/sqrt(n_cols) in size, as raw bytes [n_rows, row_bytes]."""
    scale = 1 / numpy.sqrt(n_cols)
    if kind == T.F32:
        return rng.standard_normal((n_rows, n_cols), dtype=numpy.float32) * numpy.float32(scale)
    if kind == T.BF16:
        values = rng.standard_normal((n_rows, n_cols), dtype=numpy.float32) * numpy.float32(scale)
        return (values.view(numpy.uint32) >> 16).astype(numpy.uint16).view(numpy.uint8).reshape(n_rows, -1)
    block, size = gguf.GGML_QUANT_SIZES[kind]
    raw = rng.integers(0, 256, (n_rows, n_cols // block, size), dtype=numpy.uint8)
    step = {T.Q8_0: scale / 64, T.Q4_0: scale / 4, T.Q4_K: scale / 4 / 32, T.Q6_K: scale / 16 / 64}[kind]

    def half(value):
        return numpy.frombuffer(numpy.float16(value).tobytes(), dtype=numpy.uint8)

    if kind == T.Q6_K:
        raw[:, :, -2:] = half(step)
    else:
        raw[:, :, :2] = half(step)
    if kind == T.Q4_K:
        raw[:, :, 2:4] = half(7.5 * step)  # the middle of 0 to 15: weights of both signs
    return raw.reshape(n_rows, -1)


def main():
    args = argparse.ArgumentParser()
    args.add_argument("config")
    args.add_argument("type", choices=["BF16", "Q8_0", "Q4_0", "Q4_K", "Q6_K"])
    args.add_argument("out")
    args.add_argument("--layers", type=int)
    args = args.parse_args()
    c = json.load(open(args.config))
    n_layers = args.layers or c["num_hidden_layers"]
    kind = T[args.type]
    head_kind = T.Q6_K if kind in (T.Q4_0, T.Q4_K) else kind
    hidden, vocab, head_dim = c["hidden_size"], c["vocab_size"], c["head_dim"]
    q_dim, kv_dim = c["num_attention_heads"] * head_dim, c["num_key_value_heads"] * head_dim
    n_experts = c.get("num_experts", 0)
    arch = "qwen3moe" if n_experts else "qwen3"

    w = gguf.GGUFWriter(args.out, arch)
    w.add_block_count(n_layers)
    w.add_context_length(c["max_position_embeddings"])
    w.add_embedding_length(hidden)
    w.add_feed_forward_length(c["intermediate_size"])
    w.add_head_count(c["num_attention_heads"])
    w.add_head_count_kv(c["num_key_value_heads"])
    w.add_key_length(head_dim)
    w.add_value_length(head_dim)
    w.add_rope_freq_base(c["rope_theta"])
    w.add_layer_norm_rms_eps(c["rms_norm_eps"])
    if n_experts:
        w.add_expert_count(n_experts)
        w.add_expert_used_count(c["num_experts_per_tok"])
        w.add_expert_feed_forward_length(c["moe_intermediate_size"])
    # A vocabulary that both engines accept: the 256 byte tokens, the one merge's sum, an end of text, then fillers.
    byte_chars = [chr(b) if 33 <= b < 127 or 161 <= b < 173 or b >= 174 else None for b in range(256)]
    spare = iter(range(256, 512))
    tokens = [t if t else chr(next(spare)) for t in byte_chars]
    tokens += [tokens[65] + tokens[66], "<|endoftext|>"] + [f"filler{i}" for i in range(258, vocab)]
    w.add_tokenizer_model("gpt2")
    w.add_tokenizer_pre("qwen2")
    w.add_token_list(tokens)
    w.add_token_types([3 if i == 257 else 1 for i in range(vocab)])
    w.add_token_merges([f"{tokens[65]} {tokens[66]}"])
    w.add_eos_token_id(257)

    rng = numpy.random.default_rng(1)

    def matrix(name, n_rows, n_cols, k=kind):
        data = random_rows(rng, k, n_rows, n_cols)
        w.add_tensor(name, data, raw_dtype=None if k == T.F32 else k)

    def ones(name, n):
        w.add_tensor(name, numpy.ones(n, dtype=numpy.float32))

    matrix("token_embd.weight", vocab, hidden, head_kind if c["tie_word_embeddings"] else kind)
    ones("output_norm.weight", hidden)
    if not c["tie_word_embeddings"]:
        matrix("output.weight", vocab, hidden, head_kind)
    for i in range(n_layers):
        b = f"blk.{i}."
        ones(b + "attn_norm.weight", hidden)
        ones(b + "ffn_norm.weight", hidden)
        ones(b + "attn_q_norm.weight", head_dim)
        ones(b + "attn_k_norm.weight", head_dim)
        matrix(b + "attn_q.weight", q_dim, hidden)
        matrix(b + "attn_k.weight", kv_dim, hidden)
        matrix(b + "attn_v.weight", kv_dim, hidden)
        matrix(b + "attn_output.weight", hidden, q_dim)
        if n_experts:
            inner = c["moe_intermediate_size"]
            matrix(b + "ffn_gate_inp.weight", n_experts, hidden, T.F32)
            for name, rows, cols in (("gate", inner, hidden), ("up", inner, hidden), ("down", hidden, inner)):
                data = random_rows(rng, kind, n_experts * rows, cols)
                w.add_tensor(b + f"ffn_{name}_exps.weight", data.reshape(n_experts, rows, -1), raw_dtype=kind)
        else:
            matrix(b + "ffn_gate.weight", c["intermediate_size"], hidden)
            matrix(b + "ffn_up.weight", c["intermediate_size"], hidden)
            matrix(b + "ffn_down.weight", hidden, c["intermediate_size"])
    w.write_header_to_file()
    w.write_kv_data_to_file()
    w.write_tensors_to_file()
    w.close()


main()
