"""Read the claims stored in the executed notebooks: check them, check the prose against them, list them.

python tools/claims.py check       every record holds, agrees with the line shown, is named once and for its chapter;
                                   every number linked as [1.0526](claim:1.3-langevin-bias) is the claim's number
python tools/claims.py register    the records as JSON, as the register page shows them
"""

import argparse
import importlib.util
import json
import re
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent


def load_sdelib_claims() -> Any:
    """Load sdelib/claims.py by itself: this module needs neither torch nor the rest of the library."""
    name = "sdelib.claims"
    if name in sys.modules:
        return sys.modules[name]
    spec = importlib.util.spec_from_file_location("_sdelib_claims", ROOT / "sdelib" / "claims.py")
    assert spec is not None and spec.loader is not None
    module = sys.modules["_sdelib_claims"] = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


sdelib_claims = load_sdelib_claims()


@dataclass(frozen=True)
class Stored:
    """A claim and where it stands."""

    stem: str
    chapter: str
    cell: int
    claim: Any
    output: dict

    @property
    def where(self) -> str:
        return f"notebooks/{self.stem}.ipynb, cell {self.cell}"


# ---------------------------------------------------------------- records
def notebooks(root: Path) -> Iterator[tuple[str, dict]]:
    for path in sorted((root / "notebooks").glob("*.ipynb")):
        yield path.stem, json.loads(path.read_text(encoding="utf-8"))


def title(notebook: dict, stem: str) -> str:
    for cell in notebook["cells"]:
        found = (
            re.search(r"^# +(.+)$", joined(cell["source"]), re.MULTILINE) if cell["cell_type"] == "markdown" else None
        )
        if found:
            return found[1].strip()
    return stem


def joined(text: str | list[str]) -> str:
    return text if isinstance(text, str) else "".join(text)


def collect(root: Path = ROOT) -> tuple[list[Stored], list[str]]:
    """Return the stored claims in reading order, and what is wrong with those that cannot be read."""
    stored, problems = [], []
    for stem, notebook in notebooks(root):
        chapter = title(notebook, stem)
        for i, cell in enumerate(notebook["cells"]):
            if cell["cell_type"] != "code":
                continue
            records = [
                (o, o["metadata"]["sdelib_claim"]) for o in cell["outputs"] if "sdelib_claim" in o.get("metadata", {})
            ]
            for output, record in records:
                try:
                    stored.append(Stored(stem, chapter, i, sdelib_claims.Claim(**record), output))
                except (TypeError, ValueError) as error:
                    problems.append(f"notebooks/{stem}.ipynb, cell {i}: not a claim: {error}")
            asserts = re.search(r"^\s*claim\(", joined(cell["source"]), re.MULTILINE)
            if asserts and not records and "raises-exception" not in cell["metadata"].get("tags", []):
                problems.append(
                    f"notebooks/{stem}.ipynb, cell {i}: calls claim(...) but stores none: execute the chapter"
                )
    return stored, problems


def check_records(stored: list[Stored]) -> list[str]:
    problems = []
    seen: dict[str, str] = {}
    for s in stored:
        claim = s.claim
        if not claim.holds:
            problems.append(f"{s.where}: claim {claim.id} is false: {claim.comparison}; {claim.miss}")
        for kind, want in (("text/plain", claim.text), ("text/html", claim.html)):
            shown = joined(s.output["data"].get(kind, ""))
            if shown != want:
                problems.append(f"{s.where}: claim {claim.id} shows {shown!r} as {kind}, its record says {want!r}")
        if claim.id in seen:
            problems.append(f"{s.where}: claim {claim.id} was already made in {seen[claim.id]}")
        seen[claim.id] = s.where
        number = re.match(r"ch0*(\d+)_", s.stem)
        if number and not claim.id.startswith(number[1] + "."):
            problems.append(
                f"{s.where}: claim {claim.id} belongs to chapter {number[1]}: its id must begin '{number[1]}.'"
            )
    return problems


# ---------------------------------------------------------------- numbers in the prose
LINK = re.compile(r"\[([^\]\[]*)\]\(claim:([^)\s]*)\)")
SUPERSCRIPTS = str.maketrans("⁰¹²³⁴⁵⁶⁷⁸⁹⁻⁺", "0123456789-+")
NUMBER = re.compile(
    r"(?P<sign>[+-]?)(?P<digits>\d{1,3}(?:,\d{3})+(?!\d)|\d+)(?:\.(?P<decimals>\d+))?"
    r"(?:[eE](?P<e>[+-]?\d+)|\s*(?:×|·|\\times|\\cdot)\s*10(?:\^\{?)?(?P<power>[+-]?\d+)\}?)?"
    r"(?P<percent>\s*\\?%)?"
)
VERBATIM = ("{code", "{math", "{literal")


def prose(root: Path) -> Iterator[tuple[str, str]]:
    """Yield (place, text) of every page: markdown cells, and the pages that are not chapters."""
    for stem, notebook in notebooks(root):
        for i, cell in enumerate(notebook["cells"]):
            if cell["cell_type"] == "markdown":
                yield f"notebooks/{stem}.ipynb, cell {i}", joined(cell["source"])
    for path in sorted((root / "book").glob("*.md")):
        text = path.read_text(encoding="utf-8")
        if "\n  formats: notebooks///" not in text:  # a chapter's text is read in its notebook
            yield f"book/{path.name}", text


def without_code(text: str) -> str:
    """Drop fenced and inline code, which may show links; directives other than code stay."""
    kept, fence = [], None
    for line in text.splitlines():
        opening = re.match(r"\s*(`{3,}|~{3,})\s*(\S*)", line)
        if fence is None and opening and (not opening[2].startswith("{") or opening[2].startswith(VERBATIM)):
            fence = opening[1] if opening[2] else None  # a bare fence here closes a directive
        elif fence is not None and line.strip().startswith(fence) and not line.strip().strip(fence[0]):
            fence = None
        elif fence is None:
            kept.append(line)
    return re.sub(r"`[^`\n]+`", "", "\n".join(kept))


def read_number(label: str) -> tuple[float, float] | None:
    """Return the one number in a label and the unit of its last digit; None if there is not exactly one.

    >>> read_number("5 %"), read_number("−1.1e-3"), read_number("$1.1\\\\times 10^{-3}$"), read_number("x2")
    ((0.05, 0.01), (-0.0011, 0.0001), (0.0011, 0.0001), (2.0, 1.0))
    """
    plain = label.replace("−", "-").replace("$", "").replace("\\,", "").replace("\u202f", " ").replace("\u00a0", " ")
    plain = re.sub(r"(?<=10)[⁰¹²³⁴⁵⁶⁷⁸⁹⁻⁺]+", lambda m: m[0].translate(SUPERSCRIPTS).join(("^{", "}")), plain)
    found = list(NUMBER.finditer(plain))
    if len(found) != 1:
        return None
    m = found[0]
    decimals = m["decimals"] or ""
    exponent = int(m["e"] or m["power"] or 0) - (2 if m["percent"] else 0)
    mantissa = f"{m['sign']}{m['digits'].replace(',', '')}.{decimals or 0}"
    return float(f"{mantissa}e{exponent}"), float(f"1e{exponent - len(decimals)}")


def check_prose(root: Path, stored: list[Stored]) -> list[str]:
    by_id = {s.claim.id: s.claim for s in stored}
    problems = []
    for place, text in prose(root):
        for label, id in LINK.findall(without_code(text)):
            if id not in by_id:
                problems.append(f"{place}: [{label}](claim:{id}) names a claim that no notebook stores")
                continue
            claim, read = by_id[id], read_number(label)
            if read is None:
                problems.append(f"{place}: [{label}](claim:{id}) must contain exactly one number")
                continue
            shown, unit = read
            allowed = {"measured": claim.value, "truth": claim.truth, "below": claim.below, "above": claim.above}
            if "±" in label:
                allowed = {"tolerance": claim.tolerance}
            numbers = {name: float(x) for name, x in allowed.items() if x is not None}
            if not any(abs(x - shown) <= unit * (0.5 + 1e-9) for x in numbers.values()):
                said = ", ".join(f"{name} {x:.8g}" for name, x in numbers.items())
                problems.append(f"{place}: [{label}](claim:{id}) does not agree with the claim: {said}")
    return problems


def check(root: Path = ROOT) -> list[str]:
    stored, problems = collect(root)
    return problems + check_records(stored) + check_prose(root, stored)


def register(root: Path = ROOT) -> list[dict]:
    return [{"stem": s.stem, "chapter": s.chapter, **s.claim.record()} for s in collect(root)[0]]


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("command", choices=["check", "register"])
    parser.add_argument("--root", type=Path, default=ROOT, help="the book's root (default: this repository)")
    args = parser.parse_args(argv)
    if args.command == "register":
        print(json.dumps(register(args.root), indent=1, ensure_ascii=False))
        return 0
    problems = check(args.root)
    for problem in problems:
        print(problem)
    stored = collect(args.root)[0]
    print(f"claims: {len(stored)} in {len({s.stem for s in stored})} chapters, {len(problems)} problems")
    return bool(problems)


if __name__ == "__main__":
    sys.exit(main())
