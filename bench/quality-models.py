#!/usr/bin/env python3
"""Makes the models whose quality bench/quality.sh compares, each a folder with config.json and model.safetensors:

  quality-models.py bf16 MODEL.gguf OUT     a qwen2 GGUF file (Q4_K, Q6_K) with every matrix dequantised and rounded to BF16. Every weight is
                                            moved at random within its quantisation step (the seed is fixed): weights that lie on a grid
                                            would be found again by a format with that grid, as if it lost nothing. OUT-exact: not moved
  quality-models.py fp8 BF16_FOLDER OUT     the layers' matrices as E4M3 with a BF16 scale for each block of 128 x 128
  quality-models.py gptq BF16_FOLDER OUT    the layers' matrices as 4-bit GPTQ files have them, groups of 128, symmetric; rounded to nearest,
                                            without GPTQ's error feedback, so that a real GPTQ checkpoint is better
  quality-models.py gguf BF16_FOLDER OUT.gguf FROM.gguf   the BF16 folder as a GGUF file, with the metadata of FROM

Needs numpy, ml_dtypes and gguf."""
import json
import mmap
import os
import sys

import gguf
import ml_dtypes
import numpy

BF16, FP8 = ml_dtypes.bfloat16, ml_dtypes.float8_e4m3fn
TYPES = {numpy.dtype(BF16): "BF16", numpy.dtype(FP8): "F8_E4M3", numpy.dtype("f2"): "F16", numpy.dtype("i4"): "I32"}
NUMPY = {name: kind for kind, name in TYPES.items()}
LAYER = {"attn_norm.weight": "input_layernorm.weight", "ffn_norm.weight": "post_attention_layernorm.weight",
         "attn_q": "self_attn.q_proj", "attn_k": "self_attn.k_proj", "attn_v": "self_attn.v_proj", "attn_output": "self_attn.o_proj",
         "ffn_gate": "mlp.gate_proj", "ffn_up": "mlp.up_proj", "ffn_down": "mlp.down_proj"}
TOP = {"token_embd.weight": "model.embed_tokens.weight", "output.weight": "lm_head.weight", "output_norm.weight": "model.norm.weight"}


def hf_name(name):
    if name in TOP:
        return TOP[name]
    _, layer, rest = name.split(".", 2)
    stem, tail = (rest, "") if rest in LAYER else rest.rsplit(".", 1)
    return f"model.layers.{layer}.{LAYER[stem]}{'.' + tail if tail else ''}"


class Writer:
    """Tensors one after the other into a safetensors file; the header is written last, into room left for it."""
    ROOM = 1 << 20

    def __init__(self, folder, config):
        os.makedirs(folder, exist_ok=True)
        with open(os.path.join(folder, "config.json"), "w") as file:
            json.dump(config, file, indent=2)
        self.file = open(os.path.join(folder, "model.safetensors"), "wb")
        self.file.seek(8 + self.ROOM)
        self.header, self.at = {}, 0

    def add(self, name, array):
        raw = numpy.ascontiguousarray(array)
        self.header[name] = {"dtype": TYPES[raw.dtype], "shape": list(raw.shape), "data_offsets": [self.at, self.at + raw.nbytes]}
        self.at += raw.nbytes
        self.file.write(raw.tobytes())

    def close(self):
        text = json.dumps(self.header).encode()
        assert len(text) <= self.ROOM
        self.file.seek(0)
        self.file.write(self.ROOM.to_bytes(8, "little") + text.ljust(self.ROOM))
        self.file.close()


def read_folder(folder):
    with open(os.path.join(folder, "config.json")) as file:
        config = json.load(file)
    file = open(os.path.join(folder, "model.safetensors"), "rb")
    data = mmap.mmap(file.fileno(), 0, prot=mmap.PROT_READ)
    begin = 8 + int.from_bytes(data[:8], "little")

    def tensors():
        for name, entry in json.loads(data[8:begin]).items():
            first, last = entry["data_offsets"]
            kind = NUMPY[entry["dtype"]]
            yield name, numpy.frombuffer(data, kind, (last - first) // kind.itemsize, begin + first).reshape(entry["shape"])

    return config, tensors()


def is_layer_matrix(name, array):
    return name.startswith("model.layers.") and array.ndim == 2 and not name.endswith("mlp.gate.weight")


def steps(tensor):
    """The distance between neighbouring values that each weight could have."""
    raw = tensor.data.reshape(-1, gguf.GGML_QUANT_SIZES[tensor.tensor_type][1])
    if tensor.tensor_type == gguf.GGMLQuantizationType.Q4_K:
        scales, _ = gguf.quants.Q4_K.get_scale_min(raw[:, 4:16])
        return numpy.repeat(raw[:, 0:2].copy().view("f2").astype("f4") * scales.reshape(len(raw), 8), 32, axis=1)
    assert tensor.tensor_type == gguf.GGMLQuantizationType.Q6_K, tensor.tensor_type
    return numpy.repeat(raw[:, 208:210].copy().view("f2").astype("f4") * raw[:, 192:208].view("i1"), 16, axis=1)


def make_bf16(source, out):
    rng = numpy.random.default_rng(1)
    reader = gguf.GGUFReader(source)

    def field(key):
        return reader.fields[key].contents()

    heads, hidden = field("qwen2.attention.head_count"), field("qwen2.embedding_length")
    names = {t.name for t in reader.tensors}
    writer = Writer(out, {
        "architectures": ["Qwen2ForCausalLM"], "model_type": "qwen2", "hidden_act": "silu", "torch_dtype": "bfloat16",
        "num_hidden_layers": field("qwen2.block_count"), "hidden_size": hidden, "intermediate_size": field("qwen2.feed_forward_length"),
        "num_attention_heads": heads, "num_key_value_heads": field("qwen2.attention.head_count_kv"),
        "max_position_embeddings": field("qwen2.context_length"), "rope_theta": field("qwen2.rope.freq_base"),
        "rms_norm_eps": field("qwen2.attention.layer_norm_rms_epsilon"), "tie_word_embeddings": "output.weight" not in names,
        "vocab_size": int(next(t for t in reader.tensors if t.name == "token_embd.weight").shape[1]),
        "eos_token_id": field("tokenizer.ggml.eos_token_id")})
    for tensor in reader.tensors:
        values = gguf.quants.dequantize(tensor.data, tensor.tensor_type)
        if values.ndim == 2 and not out.endswith("-exact"):
            noise = rng.random(values.size, dtype=numpy.float32).reshape(-1, 256) - numpy.float32(0.5)
            values += (noise * steps(tensor)).reshape(values.shape)
        writer.add(hf_name(tensor.name), values.astype(BF16))
    writer.close()


def fp8_blocks(matrix):
    """Bytes and scales [ceil(rows / 128), ceil(cols / 128)] of a float matrix."""
    rows, cols = matrix.shape
    down, across = -(-rows // 128), -(-cols // 128)
    padded = numpy.zeros((down * 128, across * 128), "f4")
    padded[:rows, :cols] = matrix
    blocks = padded.reshape(down, 128, across, 128)
    scales = (numpy.abs(blocks).max(axis=(1, 3)) / 448).astype(BF16)
    divisors = numpy.maximum(scales.astype("f4"), 1e-30)[:, None, :, None]
    coded = numpy.clip(blocks / divisors, -448, 448).astype(FP8)
    return coded.reshape(down * 128, across * 128)[:rows, :cols], scales


def make_fp8(source, out):
    config, tensors = read_folder(source)
    config["quantization_config"] = {"quant_method": "fp8", "fmt": "e4m3", "activation_scheme": "dynamic", "weight_block_size": [128, 128]}
    writer = Writer(out, config)
    for name, array in tensors:
        if is_layer_matrix(name, array):
            coded, scales = fp8_blocks(array.astype("f4"))
            writer.add(name, coded)
            writer.add(name + "_scale_inv", scales)
        else:
            writer.add(name, array)
    writer.close()


def pack_nibbles(values, axis):
    """Eight values of 0 to 15 along an axis in a 32-bit word, the first in the lowest bits."""
    values = numpy.moveaxis(values.astype("u4"), axis, 0)
    words = sum(values[i::8] << numpy.uint32(4 * i) for i in range(8))
    return numpy.moveaxis(words, 0, axis).view("i4")


def gptq_matrix(matrix, group=128):
    """qweight [cols / 8, rows], qzeros [cols / group, rows / 8], scales [cols / group, rows]."""
    rows, cols = matrix.shape
    groups = matrix.T.reshape(cols // group, group, rows)
    scales = (numpy.abs(groups).max(axis=1) * (2 / 15)).astype("f2")
    divisors = numpy.maximum(scales.astype("f4"), 1e-8)[:, None, :]
    q = numpy.clip(numpy.rint(groups / divisors) + 8, 0, 15).reshape(cols, rows)
    zeros = numpy.full((cols // group, rows), 7)  # one less than the zero, as the first version of the format stores it
    return pack_nibbles(q, 0), pack_nibbles(zeros, 1), scales


def make_gptq(source, out):
    config, tensors = read_folder(source)
    config["quantization_config"] = {"quant_method": "gptq", "bits": 4, "group_size": 128, "desc_act": False, "sym": True}
    writer = Writer(out, config)
    for name, array in tensors:
        if is_layer_matrix(name, array):
            stem = name.removesuffix(".weight")
            qweight, qzeros, scales = gptq_matrix(array.astype("f4"))
            writer.add(stem + ".qweight", qweight)
            writer.add(stem + ".qzeros", qzeros)
            writer.add(stem + ".scales", scales)
            writer.add(stem + ".g_idx", (numpy.arange(array.shape[1]) // 128).astype("i4"))
        else:
            writer.add(name, array)
    writer.close()


def make_gguf(source, out, metadata_from):
    reader = gguf.GGUFReader(metadata_from)
    names = {hf_name(t.name): t.name for t in reader.tensors}
    _, tensors = read_folder(source)
    writer = gguf.GGUFWriter(out, reader.fields["general.architecture"].contents())
    for key, field in reader.fields.items():
        if key.startswith("GGUF.") or key in ("general.architecture", "general.file_type", "general.quantization_version"):
            continue
        kind = field.types[0]
        writer.add_key_value(key, field.contents(), kind, field.types[-1] if kind == gguf.GGUFValueType.ARRAY else None)
    for name, array in tensors:
        if array.ndim == 1:
            writer.add_tensor(names[name], array.astype("f4"))
        else:
            writer.add_tensor(names[name], array.view("u1"), raw_dtype=gguf.GGMLQuantizationType.BF16)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


if __name__ == "__main__":
    {"bf16": make_bf16, "fp8": make_fp8, "gptq": make_gptq, "gguf": make_gguf}[sys.argv[1]](*sys.argv[2:])
