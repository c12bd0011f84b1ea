"""Writes rope_frequencies.h: the angles per position that each scaling of the rotary embedding should give.

Written from the papers and from the definitions that model configurations refer to (linear: position interpolation,
Chen et al. 2023; yarn: Peng et al. 2023, section 3.4; llama3: the Llama 3.1 model card), in double precision, and on purpose
not like src/model/rope.c. usage: rope_frequencies.py > rope_frequencies.h
"""
import json
import math

DIM = 128


def plain(theta):
    return [1 / theta ** (2 * i / DIM) for i in range(DIM // 2)]


def yarn(theta, factor, original, fast=32, slow=1):
    # The dimension at which a full turn takes original / turns tokens: solve turns · 2π · theta^(2d/DIM) = original.
    def dim(turns):
        return DIM / 2 * math.log(original / turns / 2 / math.pi, theta)

    low, high = max(math.floor(dim(fast)), 0), min(math.ceil(dim(slow)), DIM - 1)
    out = []
    for i, f in enumerate(plain(theta)):
        share = min(max((i - low) / (high - low), 0), 1)  # 0: turns fast, kept; 1: slow, interpolated
        out.append((1 - share) * f + share * f / factor)
    return out


def llama3(theta, factor, low, high, original):
    out = []
    for f in plain(theta):
        turns = original * f / (2 * math.pi)
        if turns >= high:
            out.append(f)
        elif turns <= low:
            out.append(f / factor)
        else:
            s = (turns - low) / (high - low)
            out.append(f * s + f / factor * (1 - s))
    return out


CASES = [
    ({}, plain(1e6), 1),
    ({"rope_scaling": {"type": "linear", "factor": 2.5}}, [f / 2.5 for f in plain(1e6)], 1),
    ({"rope_theta": 500000.0, "rope_scaling": {"rope_type": "llama3", "factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0,
                                               "original_max_position_embeddings": 8192}}, llama3(5e5, 8, 1, 4, 8192), 1),
    ({"rope_scaling": {"rope_type": "yarn", "factor": 4.0, "original_max_position_embeddings": 32768}}, yarn(1e6, 4, 32768),
     0.1 * math.log(4) + 1),
    ({"rope_parameters": {"rope_theta": 10000.0, "rope_type": "yarn", "factor": 16.0, "original_max_position_embeddings": 4096, "beta_fast": 16,
                          "beta_slow": 2, "attention_factor": 1.5}}, yarn(1e4, 16, 4096, 16, 2), 1.5),
]

print("/* Made by rope_frequencies.py. */")
print("static const struct {\n    const char *overrides;\n    double magnitude;\n    float frequencies[64];\n} rope_cases[] = {")
for overrides, frequencies, magnitude in CASES:
    print(f"    {{{json.dumps(json.dumps(overrides))},\n     {magnitude!r},\n     {{")
    for at in range(0, 64, 6):
        print("         " + " ".join(f"{f:.9e}f," for f in frequencies[at:at + 6]))
    print("     }},")
print("};")
