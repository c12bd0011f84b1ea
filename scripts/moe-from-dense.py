#!/usr/bin/env python3
"""Makes a mixture of experts with real weights out of a dense Llama model, both GGUF, whose output is the dense model's.
usage: moe-from-dense.py DENSE.gguf OUT.gguf F32|BF16 split EXPERTS | copies EXPERTS ACTIVE | dense       needs the packages gguf and numpy

split:  the FFN is cut into EXPERTS parts along its intermediate size, all of which are active; each has the share 1 / EXPERTS, so its
        down projection is multiplied by EXPERTS.
copies: EXPERTS times the whole FFN, of which any ACTIVE give the dense output.
dense:  the model as it is, to compare with.
Router weights are zero: all shares are equal, and the experts with the lowest numbers are chosen. Weights are written as floats: with the
block formats activations are rounded to int8, and a different order of sums already turns some of them over."""
import sys

import gguf
import numpy

T = gguf.GGMLQuantizationType


def as_bytes(values, kind):
    """[n_rows, n_cols] floats as raw rows; BF16 is rounded to nearest even."""
    if kind == T.F32:
        return values
    bits = values.view(numpy.uint32)
    return ((bits + 0x7FFF + (bits >> 16 & 1)) >> 16).astype(numpy.uint16).view(numpy.uint8).reshape(values.shape[:-1] + (-1,))


def experts_of(name, rows, mode, n_experts):
    """[n_experts, n_rows, n_cols] of one of the three FFN matrices."""
    if mode == "copies":
        return numpy.stack([rows] * n_experts)
    parts = numpy.split(rows, n_experts, axis=1 if name == "down" else 0)
    return numpy.stack([part * numpy.float32(n_experts) if name == "down" else part for part in parts])


def copy_metadata(reader, writer, inner, n_experts, n_active):
    for field in reader.fields.values():
        if field.name.startswith("GGUF.") or field.name in ("general.architecture", "llama.feed_forward_length"):
            continue
        kind = field.types[0]
        value = field.contents()
        writer.add_key_value(field.name, value, kind, sub_type=field.types[-1] if kind == gguf.GGUFValueType.ARRAY else None)
    writer.add_feed_forward_length(inner)
    if n_experts > 0:
        writer.add_expert_count(n_experts)
        writer.add_expert_used_count(n_active)


def main():
    words = {"split": 1, "copies": 2, "dense": 0}
    if len(sys.argv) < 5 or sys.argv[3] not in ("F32", "BF16") or words.get(sys.argv[4]) != len(sys.argv) - 5:
        raise SystemExit(__doc__)
    source, target, kind, mode = sys.argv[1], sys.argv[2], T[sys.argv[3]], sys.argv[4]
    numbers = [int(word) for word in sys.argv[5:]]
    n_experts, n_active = (numbers[0], numbers[-1]) if numbers else (0, 0)
    reader = gguf.GGUFReader(source)
    arch = reader.fields["general.architecture"].contents()
    if arch != "llama":
        raise SystemExit(f"moe-from-dense: {source} is a {arch} model; only llama has a mixture without further parts")
    inner = reader.fields["llama.feed_forward_length"].contents()
    hidden = reader.fields["llama.embedding_length"].contents()
    if mode == "split":
        if inner % (32 * n_experts) != 0:
            raise SystemExit(f"moe-from-dense: {inner} columns cannot be cut into {n_experts} parts of whole blocks of 32")
        inner //= n_experts
    writer = gguf.GGUFWriter(target, arch)
    copy_metadata(reader, writer, inner, n_experts, n_active)
    for tensor in reader.tensors:
        layer, _, part = tensor.name.rpartition(".ffn_")
        part = part.removesuffix(".weight")
        values = gguf.dequantize(tensor.data, tensor.tensor_type).astype(numpy.float32)
        if values.ndim == 1:
            writer.add_tensor(tensor.name, values)
        elif part not in ("gate", "up", "down") or n_experts == 0:
            writer.add_tensor(tensor.name, as_bytes(values, kind), raw_dtype=kind)
        else:
            writer.add_tensor(f"{layer}.ffn_{part}_exps.weight", as_bytes(experts_of(part, values, mode, n_experts), kind), raw_dtype=kind)
            if part == "gate":
                writer.add_tensor(f"{layer}.ffn_gate_inp.weight", numpy.zeros((n_experts, hidden), dtype=numpy.float32))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


main()
