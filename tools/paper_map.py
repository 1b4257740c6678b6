"""Check book/paper_map.yml: every formula of the paper that the book has reached leads to a page, a name and a test.

python tools/paper_map.py      say what is wrong, exit status 1 if anything is
"""

from __future__ import annotations

import ast
import re
import sys
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import Any

import reference
import yaml

ROOT = Path(__file__).resolve().parent.parent
FILE = "book/paper_map.yml"
KEYS = {"id", "paper", "says", "formula", "book", "code", "tests", "comes"}

NUMBERED = {f"eq-{n}" for n in range(1, 15)} | {f"alg-{n}" for n in range(1, 6)}
NUMBERED |= {f"fig-{n}" for n in range(1, 6)} | {f"table-{n}" for n in range(1, 4)}
# What the sections and appendices state without a number.
TAUGHT = {
    "2": {"score"},
    "2.1": {"perturbation-kernel", "noise-scales", "eq-1", "eq-2"},
    "2.2": {"ddpm-chain", "ddpm-kernel", "ddpm-reverse", "eq-3", "weights", "eq-4"},
    "3.1": {"eq-5", "marginals"},
    "3.2": {"eq-6", "fig-2"},
    "3.3": {"eq-7", "weighting", "affine-kernel", "no-kernel"},
    "3.4": {"eq-8", "eq-9", "eq-10", "eq-11", "eq-12", "variances"},
    "A": {"general-sde", "general-reverse", "general-flow", "general-conditional"},
    "B": {"ve-limit", "vp-limit", "vp-variance", "kernels"},
    "C": {"ve-schedule", "vp-schedule", "cut-off"},
    "4.1": {"predictors"},
    "4.2": {"correctors", "table-1"},
    "4.3": {"eq-13", "fig-3", "table-2"},
    "5": {"eq-14", "fig-4"},
    "D": {"appendix-d1", "appendix-d2", "appendix-d2-probes", "appendix-d3", "appendix-d4", "appendix-d5"},
    "E": {"appendix-e"},
    "F": {"appendix-f"},
    "G": {f"alg-{n}" for n in range(1, 6)},
    "H": {"appendix-h"},
    "I": {"appendix-i1", "appendix-i2", "appendix-i3", "appendix-i4"},
}
CHAPTER = re.compile(r"(?:eq|fig|ex|sol)-(\d+)-|ch(\d+)$")


def load(root: Path = ROOT) -> list[dict[str, Any]]:
    """The sections of the map."""
    return yaml.safe_load((root / FILE).read_text(encoding="utf-8"))


def entries(sections: list[dict[str, Any]]) -> Iterator[tuple[str, dict[str, Any]]]:
    for part in sections:
        for entry in part["entries"]:
            yield str(part["section"]), entry


def labels(root: Path = ROOT) -> set[str]:
    """What a page can be entered at: labelled equations and exercises, named figures, (targets)=."""
    found: set[str] = set()
    for page in (root / "book").glob("*.md"):
        text = page.read_text(encoding="utf-8")
        found |= set(re.findall(r"^:label: (\S+)$", text, re.MULTILINE))
        found |= set(re.findall(r"^ {4}name: (\S+)$", text, re.MULTILINE))
        found |= set(re.findall(r"^\((\S+)\)=$", text, re.MULTILINE))
    return found


def chapter_of(label: str) -> int:
    """The chapter that holds a label."""
    found = CHAPTER.match(label)
    return int(found[1] or found[2]) if found else 0


@cache
def tests_in(path: Path) -> frozenset[str]:
    """The test functions of a file, without importing it."""
    if not path.is_file():
        return frozenset()
    tree = ast.parse(path.read_text(encoding="utf-8"))
    return frozenset(n.name for n in ast.walk(tree) if isinstance(n, ast.FunctionDef) and n.name.startswith("test_"))


def entry_of(name: str) -> str | None:
    """The path of the API entry that a name of the map stands for."""
    return reference.canonical_paths().get(f"sdelib.{name}")


def problems(root: Path, sections: list[dict[str, Any]]) -> list[str]:
    """Everything wrong with the map, a line each."""
    found: list[str] = []
    seen: list[str] = []
    known = labels(root)
    for section, entry in entries(sections):
        id = str(entry.get("id"))
        seen.append(id)
        found += [f"{id}: unknown key {key!r}" for key in entry.keys() - KEYS]
        found += [f"{id}: lacks {key!r}" for key in ("id", "paper", "says") if not str(entry.get(key, "")).strip()]
        found += [f"{id}: no page of the book has the label {x!r}" for x in entry.get("book", []) if x not in known]
        found += [f"{id}: sdelib has no public {x!r}" for x in entry.get("code", []) if entry_of(x) is None]
        for test in entry.get("tests", []):
            file, _, name = test.partition("::")
            if name not in tests_in(root / "tests" / file):
                found.append(f"{id}: no test {test!r} below tests/")
        if "comes" in entry:
            if f"ch{entry['comes']:02}" in known:
                found.append(f"{id}: chapter {entry['comes']} has come: give its labels")
        else:
            found += [f"{id}: lacks {key!r}" for key in ("book", "code", "tests") if not entry.get(key)]
        if section in TAUGHT and id in TAUGHT[section] and "comes" in entry:
            found.append(f"{id}: section {section} is taught, so this must lead to a page")
    found += [f"{id}: twice in the map" for id in sorted(set(seen)) if seen.count(id) > 1]
    found += [f"{id}: missing from the map" for id in sorted(NUMBERED - set(seen))]
    for section, wanted in TAUGHT.items():
        there = {entry["id"] for where, entry in entries(sections) if where == section}
        found += [f"{id}: missing from section {section} of the map" for id in sorted(wanted - there)]
    return found


def main() -> int:
    found = problems(ROOT, load())
    print(*found, sep="\n", end="\n" if found else "")
    print(f"paper map: {len(list(entries(load())))} entries, {len(found)} findings")
    return bool(found)


if __name__ == "__main__":
    sys.exit(main())
