"""Measure everything that docs/performance.md shows, and write it there.

    python benchmarks/performance.py [--rounds 40] [--threads 2] [--json DIR]

Tables between ``<!-- NAME -->`` and ``<!-- end -->`` are replaced, and so are the pictures in
docs/images. It takes about four minutes, on a machine that should do nothing else meanwhile.
torch, torchvision and timm take part where they are installed.
"""

from __future__ import annotations

import argparse
import importlib.util
import json
import pathlib
import re
import subprocess
import sys

ROOT = pathlib.Path(__file__).parents[1]
PAGE = ROOT / "docs" / "performance.md"
IMAGES = ROOT / "docs" / "images"
SHAPES = ("--shape", "32,64,56,56", "--shape", "64,256,28,28")
RUNS = {
    "standard": SHAPES,
    "functions": ("--without-library", "--without-frameworks", *SHAPES),
    "size": ("--sweep", "size"),
    "rate": ("--sweep", "rate"),
    "block": ("--sweep", "block"),
    "threads": ("--sweep", "threads"),
    "dtype": ("--sweep", "dtype"),
}
"""Name of a run and its options; pictures of all but the functions go into the page."""


def bench(name: str, options: list[str]) -> dict:
    """Run ``structdrop bench`` in a process of its own and return what it measured."""
    # The package that is installed, with its library: not the sources in the current folder.
    program = ["-P", "-m", "onnx_structdrop", "bench"]
    if name == "standard" and importlib.util.find_spec("torch"):
        program = [str(ROOT / "benchmarks" / "beside_cpu_torch.py")]
    picture = [] if name == "functions" else ["--plot", str(IMAGES / f"bench_{name}.png")]
    done = subprocess.run(
        [sys.executable, *program, "--json", *RUNS[name], *picture, *options],
        check=True,
        stdout=subprocess.PIPE,
    )
    return json.loads(done.stdout)


def table(header: list[str], rows: list[list[str]]) -> str:
    """Return a table in Markdown; the first column is text."""
    lines = [header, ["---", *["---:"] * (len(header) - 1)], *rows]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)


def number(value: float) -> str:
    """Return a figure with about three digits."""
    return f"{value:.2f}" if abs(value) < 100 else f"{value:,.0f}"


def quartiles(spread: dict) -> str:
    """Return where half of the rounds lie."""
    return f"{number(spread['lower'])} to {number(spread['upper'])}"


def shape_of(entry: dict) -> str:
    """Return a shape in words."""
    return " x ".join(map(str, entry["shape"]))


def setting(found: dict) -> str:
    """Return on what a run was made."""
    around = found["environment"]
    versions = {"onnxruntime": around["onnxruntime"], **found["frameworks"]}
    names = ", ".join(f"{name} {version}" for name, version in versions.items() if version)
    return (
        f"{around['processor']}, {around['processors']} processors, SIMD level {around['simd']}, "
        f"load {around['load']} at the start; {names}; {found['settings']['threads']} threads, "
        f"{found['settings']['rounds']} rounds."
    )


def goals(found: dict) -> str:
    """Return a table of the goals."""
    rows = []
    for goal in found["goals"]:
        unit = " µs" if goal["kind"] == "overhead" else ""
        asked = f"{'≥' if goal['at_least'] else '≤'} {goal['limit']:g}{unit}"
        measured = goal["measured"]
        rows.append(
            [
                f"{goal['title']} ({shape_of(goal)})",
                number(measured["median"]) + unit,
                quartiles(measured),
                number(measured["of_minima"]),
                asked,
                {True: "met", False: "**missed**", None: "not judged"}[goal["met"]],
            ]
        )
    return table(["", "median", "quartiles", "of minima", "goal", ""], rows)


def cases(found: dict) -> str:
    """Return a table of all cases for each group."""
    parts = []
    for group in found["groups"]:
        rows = []
        for case in group["cases"]:
            element = "" if case["element"] == "float32" else f", {case['element']}"
            seconds = case["seconds"]["median"]
            rows.append(
                [
                    case["title"] + element,
                    f"{seconds * 1e3:.2f} ms" if seconds > 1e-3 else f"{seconds * 1e6:.2f} µs",
                    number(case["ratio"]["median"]),
                    quartiles(case["ratio"]),
                    number(case["ratio"]["of_minima"]),
                ]
            )
        size = group["bytes"]
        words = f"{size / 1e6:.1f} MB" if size >= 1e5 else f"{size} bytes"
        head = f"**{shape_of(group)}**, {words} of float32"
        parts += [head, table(["", "time", "x Mul", "quartiles", "of minima"], rows)]
    return "\n\n".join(parts)


def sweep(found: dict) -> str:
    """Return one row for each value of what is swept, one column for each case."""
    name = found["suite"]
    figure = "overhead" if name == "size" else "ratio"
    cells: dict = {}
    titles: dict = {}
    for group in found["groups"]:
        for case in group["cases"]:
            if case["parameter"] is None or (case["key"] == case["unit"] and name != "size"):
                continue
            text = number(case[figure]["median"])
            if case["key"] == case["unit"]:
                text = f"{case['seconds']['median'] * 1e6:,.2f}"
            titles[case["title"]] = None
            cells.setdefault(case["parameter"], {})[case["title"]] = text
    header = {"size": "bytes", "rate": "rate", "block": "block", "dtype": "type"}.get(name, name)
    rows = [[str(value), *(row[title] for title in titles)] for value, row in cells.items()]
    return table([header, *titles], rows)


def put(text: str, name: str, content: str) -> str:
    """Return a page with the content of a marked place replaced."""
    found, count = re.subn(
        rf"(<!-- {name} -->\n).*?(<!-- end -->)",
        lambda match: f"{match[1]}{content}\n{match[2]}",
        text,
        flags=re.DOTALL,
    )
    if count != 1:
        raise SystemExit(f"{PAGE} has {count} places marked <!-- {name} -->, not one")
    return found


def main() -> int:
    """Run from the command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", default="40")
    parser.add_argument("--threads", default="2")
    parser.add_argument("--json", type=pathlib.Path, help="folder for the documents")
    arguments = parser.parse_args()
    options = ["--rounds", arguments.rounds, "--threads", arguments.threads]
    text = PAGE.read_text(encoding="utf-8")
    for name in RUNS:
        print(f"{name} ...", file=sys.stderr, flush=True)
        found = bench(name, options)
        if arguments.json:
            arguments.json.mkdir(parents=True, exist_ok=True)
            target = arguments.json / f"{name}.json"
            target.write_text(json.dumps(found, indent=2) + "\n", encoding="utf-8")
        if name == "standard":
            text = put(text, "setting", setting(found))
            text = put(text, "goals", goals(found))
        text = put(text, name, (cases if name in ("standard", "functions") else sweep)(found))
    PAGE.write_text(text, encoding="utf-8")
    print(f"wrote {PAGE} and pictures in {IMAGES}", file=sys.stderr)
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
