#!/usr/bin/env python3
"""The same ids as Hugging Face's tokenizers over a corpus of mixed text.
usage: diff_tokenizer.py ENCODE_PROGRAM MIN_MB QWEN3_TOKENIZER.json OTHER_TOKENIZER.json|MODEL.gguf…   (in a Python with tokenizers, and gguf for GGUF files)
The corpus is made here, the same every time: Python's own library, text of all planes, marks, digits, blanks, broken UTF-8."""
import pathlib
import random
import struct
import subprocess
import sys
import sysconfig

import tokenizers

WORDS = ("the of and to in is you that it he was for on are as with his they I at be this have from or one had by word but not what all were we "
         "when your can said there use an each which she do how their if will up other about out many then them these so some her would make like "
         "don't I'm we've you'll he'd IT'S WE'RE isn'T").split()
CHINESE = "的一是在不了有和人这中大为上个国我以要他时来用们生到作地于出就分对成会可主发年动同工也能下过子说产种面而方后多定行学法所民得经十三之进着等部度家电力里如水化高自二理起小物现实加量都两体制机当使点从业本去把性好应开它合还因由其些然前外天政四日那社义事平形相全表间样与关各重新线内数正心反你明看原又么利比或但质气第向道命此变条只没结解问意建月公无系军很情者最立代想已通并提直题党程展五果料象员革位入常文总次品式活设及管特件长求老头基资边流路级少图山统接知较将组见计别她手角期根论运农指几九区强放决西被干做必战先回则任取据处队南给色光门即保治北造百规热领七海口东导器压志世金增争济阶油思术极交受联什认六共权收证改清己美再采转更单风切打白教速花带安场身车例真务具万每目至达走积示议声报斗完类八离华名确才科张信马节话米整空元况今集温传土许步群广石记需段研界拉林律叫且究观越织装影算低持音众书布复容儿须际商非验连断深难近矿千周委素技备半办青省列习响约支般史感劳便团往酸历市克何除消构府称太准精值号率族维划选标写存候毛亲快效斯院查江型眼王按格养易置派层片始却专状育厂京识适属圆包火住调满县局照参红细引听该铁价严"
EMOJI = ["😀", "👩‍👩‍👧‍👦", "🇩🇪", "👍🏽", "❤️", "🏴󠁧󠁢󠁥󠁮󠁧󠁿", "🫠", "☃", "1️⃣"]


def python_sources():
    root = pathlib.Path(sysconfig.get_paths()["stdlib"])
    for path in sorted(root.glob("*.py")) + sorted(root.glob("*/*.py")):
        if "site-packages" not in str(path):
            yield path.read_bytes()


def code_points(rng, n):
    planes = ((0x20, 0x7F), (0xA0, 0x600), (0x600, 0x1200), (0x1200, 0x3000), (0x3000, 0xA000), (0xA000, 0xD800), (0xE000, 0x10000), (0x10000, 0x20000),
              (0x20000, 0x33000), (0xE0000, 0xE01F0), (0xF0000, 0x10FFFF))
    return "".join(chr(rng.randrange(*rng.choice(planes))) for _ in range(n))


def pieces(rng):
    """One random piece of text of some kind."""
    kind = rng.randrange(14)
    if kind <= 2:
        return " ".join(rng.choice(WORDS) for _ in range(rng.randrange(1, 30))) + rng.choice([".", "!", "?\n", "...\n\n", ", "])
    if kind == 3:
        return "".join(rng.choice(CHINESE) for _ in range(rng.randrange(1, 40))) + rng.choice(["。", "，", "！\n", ""])
    if kind == 4:
        return "".join(rng.choice(EMOJI) for _ in range(rng.randrange(1, 6)))
    if kind == 5:
        return "".join(chr(rng.randrange(0, 0x21)) for _ in range(rng.randrange(1, 10)))
    if kind == 6:
        return rng.choice(" \t\n\r\u00a0\u2003\u3000\u0085\x0b\x1c") * rng.randrange(1, 12) + rng.choice(["", "x", "\n", " y"])
    if kind == 7:
        return "".join(chr(rng.choice([0x30, 0x660, 0x966, 0xFF10, 0x1D7CE]) + rng.randrange(10)) for _ in range(rng.randrange(1, 12)))
    if kind == 8:
        return rng.choice("aeiouAEn가ക") + "".join(chr(rng.choice([rng.randrange(0x300, 0x370), rng.randrange(0x1DC0, 0x1E00), 0x345, 0x334, 0x3099])) for _ in range(rng.randrange(1, 5)))
    if kind == 9:
        return code_points(rng, rng.randrange(1, 20))
    if kind == 10:
        return rng.choice(["<|im_start|>", "<|im_end|>", "<|endoftext|>", "<|im_start", "<think>", "</think>\n", "<tool_call>", "<|", "<|im_end|> ", "<0x0A>"])
    if kind == 11:
        return rng.choice(["²³¹", "Ⅷ", "½", "ǅ", "ſ", "'ſ", "ﬁ", "Å", "각", "ಕೊ", "\u1e9b\u0323", "İ", "'S", "’s", "x'll", "'Ve"])
    if kind == 12:
        return rng.choice("ab=-_/*#~.") * rng.randrange(1, 200)
    return "def f(x):\n    return {%d: [x + 1, 'a\\n']}  # %s\n" % (rng.randrange(10**6), rng.choice(WORDS))


def broken(rng, data):
    data = bytearray(data)
    for _ in range(rng.randrange(1, 6)):
        if data:
            data[rng.randrange(len(data))] = rng.randrange(256)
    return bytes(data)


def corpus(min_bytes):
    rng = random.Random(42)
    documents, total = [b"", b" ", b"a" * 100000, b" " * 3000, "\u0301".encode() * 500], 0
    for source in python_sources():
        documents.append(source)
        total += len(source)
        if total > min_bytes * 0.5:
            break
    total = sum(map(len, documents))
    while total < min_bytes:
        text = "".join(pieces(rng) for _ in range(rng.randrange(1, 60))).encode("utf-8", "surrogatepass")
        documents.append(broken(rng, text) if rng.randrange(5) == 0 else text)
        total += len(documents[-1])
    return documents


def reference(path):
    if path.endswith(".json"):
        return tokenizers.Tokenizer.from_file(path)
    import gguf

    fields = gguf.GGUFReader(path).fields
    text = lambda key: fields["tokenizer.ggml." + key].contents()
    tokens, merges, types = text("tokens"), text("merges"), text("token_type")
    tokenizer = tokenizers.Tokenizer(tokenizers.models.BPE({t: i for i, t in enumerate(tokens)}, [tuple(m.split(" ")) for m in merges]))
    digits = [tokenizers.pre_tokenizers.Digits(individual_digits=True)] if text("pre") == "smollm" else []
    tokenizer.pre_tokenizer = tokenizers.pre_tokenizers.Sequence(digits + [tokenizers.pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=True)])
    tokenizer.add_special_tokens([tokenizers.AddedToken(t, normalized=False, special=True) for i, t in enumerate(tokens) if types[i] in (3, 4)])
    return tokenizer


def run(program, path, documents):
    stream = b"".join(struct.pack("<I", len(d)) + d for d in documents)
    done = subprocess.run([program, path], input=stream, capture_output=True)
    if done.returncode != 0:
        raise SystemExit(f"{program} {path}: {done.stderr.decode()}")
    at, answers = 0, []
    while at < len(done.stdout):
        (n,) = struct.unpack_from("<i", done.stdout, at)
        answers.append(list(struct.unpack_from(f"<{n}i", done.stdout, at + 4)))
        at += 4 + 4 * n
    return answers, done.stderr.decode().strip()


def compare(program, path, documents):
    hf = reference(path)
    answers, speed = run(program, path, documents)
    texts = [d.decode("utf-8", "replace") for d in documents]
    n_tokens, n_wrong = 0, 0
    for begin in range(0, len(texts), 512):
        for i, encoding in enumerate(hf.encode_batch(texts[begin : begin + 512], add_special_tokens=False), begin):
            wanted = encoding.ids
            n_tokens += len(wanted)
            if answers[i] == wanted:
                continue
            n_wrong += 1
            if n_wrong <= 3:
                k = next((k for k, (a, b) in enumerate(zip(answers[i], wanted)) if a != b), min(len(answers[i]), len(wanted)))
                begin_at, end_at = encoding.offsets[max(0, k - 3)][0], encoding.offsets[min(k + 4, len(encoding.offsets) - 1)][1]
                print(f"document {i}, token {k}: {answers[i][max(0, k - 3):k + 4]}, the reference has {wanted[max(0, k - 3):k + 4]} near {texts[i][begin_at:end_at]!r}")
    print(f"{path.split('/')[-1]}: {len(documents)} documents, {sum(map(len, documents)) / 1e6:.1f} MB, {n_tokens} tokens, {n_wrong} documents differ; {speed}", flush=True)
    return n_wrong


def compare_cases(program, path):
    """The 47 cases of Qwen2's splitter that stand in tests/data."""
    data = pathlib.Path(__file__).resolve().parent.parent / "data"
    texts = (data / "ggml-vocab-qwen2.gguf.inp").read_text(encoding="utf-8").split("\n__ggml_vocab_test__\n")
    wanted = [[int(i) for i in line.split()] for line in (data / "ggml-vocab-qwen2.gguf.out").read_text().split("\n")]
    answers, _ = run(program, path, [t.encode() for t in texts])
    wrong = [t for t, a, w in zip(texts, answers, wanted) if a != w]
    print(f"{len(texts)} recorded cases, {len(wrong)} differ {wrong[:3]}")
    return len(wrong) + (len(texts) != len(wanted))


def main():
    program, min_mb, paths = sys.argv[1], float(sys.argv[2]), sys.argv[3:]
    documents = corpus(int(min_mb * 1e6))
    n_wrong = sum(compare(program, p, documents) for p in paths) + compare_cases(program, paths[0])
    return 1 if n_wrong else 0


sys.exit(main())
