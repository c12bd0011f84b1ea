#!/usr/bin/env python3
"""Checks the rules of src/LAYERS: every include names its folder and goes downwards only, file names are unique,
no header only includes others, and every source file opens with a comment. usage: check_layers.py SRC_DIR"""
import pathlib
import re
import sys

INCLUDE = re.compile(r'^\s*#\s*include\s+"([^"]+)"', re.M)


def read_layers(path):
    layers = {}
    for number, line in enumerate(path.read_text().splitlines(), 1):
        if not line.strip() or line.startswith("#"):
            continue
        name, _, below = line.partition(":")
        for other in below.split():
            if other not in layers:
                raise SystemExit(f"{path}:{number}: '{name}' may include '{other}', which is not a lower layer")
        layers[name] = set(below.split()) | {name}
    return layers


def check_file(path, src, layers, problems):
    layer = path.relative_to(src).parts[0]
    text = path.read_text()
    if not text.lstrip().startswith("/*"):
        problems.append(f"{path}: does not open with a comment that says what the file owns")
    for match in INCLUDE.finditer(text):
        name = match.group(1)
        line = text.count("\n", 0, match.start()) + 1
        folder = name.split("/")[0]
        if "/" not in name or not (src / name).is_file():
            problems.append(f'{path}:{line}: "{name}" is not of the form "folder/file.h" below src/')
        elif layer not in layers:
            problems.append(f"{path}: the folder '{layer}' is not in src/LAYERS")
        elif folder not in layers[layer]:
            problems.append(f"{path}:{line}: '{layer}' must not include '{folder}'")
    if "immintrin.h" in text and layer != "kernels":
        problems.append(f"{path}: intrinsics belong under src/kernels/")
    code = re.sub(r"/\*.*?\*/", "", text, flags=re.S)
    code = re.sub(r"^[ \t]*#.*$", "", code, flags=re.M).strip()
    if path.suffix == ".h" and not code and INCLUDE.search(text):
        problems.append(f"{path}: an umbrella header")
    if text.count("\n") > 1000:
        problems.append(f"{path}: {text.count(chr(10))} lines; more than 1,000")


def main():
    src = pathlib.Path(sys.argv[1])
    layers = read_layers(src / "LAYERS")
    problems, seen = [], {}
    files = sorted(p for p in src.rglob("*") if p.suffix in (".c", ".h"))
    for path in files:
        check_file(path, src, layers, problems)
        if path.name in seen:
            problems.append(f"{path}: the name stands again at {seen[path.name]}")
        seen[path.name] = path
    for problem in problems:
        print(problem)
    print(f"{len(files)} files, {len(layers)} layers, {len(problems)} problems")
    return 1 if problems or not files else 0


sys.exit(main())
