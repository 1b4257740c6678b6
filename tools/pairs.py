"""Compare each chapter's text (book/STEM.md) with its executed twin (notebooks/STEM.ipynb).

python tools/pairs.py check            every pair says the same; nothing is written
python tools/pairs.py to-text STEM     show what the notebook would change in the text; --write writes it

The text is the source; tools/execute.py makes the notebook from it. Nothing here trusts a file's date, and nothing
overwrites without being told: `jupytext --sync` does both, and has eaten edits.
"""

import argparse
import difflib
import re
import sys
from pathlib import Path

import jupytext
import nbformat

ROOT = Path(__file__).resolve().parent.parent
FORMATS = "notebooks///ipynb,book///md:myst"


def chapters(root: Path = ROOT) -> list[str]:
    """Return the stems of the texts that are chapters: those whose header names the pair."""
    return [p.stem for p in sorted((root / "book").glob("*.md")) if is_chapter(p)]


def is_chapter(path: Path) -> bool:
    header = re.match(r"---\n(.*?)\n---\n", path.read_text(encoding="utf-8"), re.DOTALL)
    return bool(header and re.search(rf"^\s*formats: {re.escape(FORMATS)}\s*$", header[1], re.MULTILINE))


def read_text(path: Path) -> nbformat.NotebookNode:
    return jupytext.read(path, fmt="md:myst")


def content(cell: nbformat.NotebookNode) -> dict:
    """Return what a pair must share: type, source, tags, and the page's instructions."""
    return {
        "type": cell.cell_type,
        "source": cell.source.rstrip(),
        "tags": list(cell.metadata.get("tags", [])),
        "mystnb": dict(cell.metadata.get("mystnb", {})),
    }


def header(notebook: nbformat.NotebookNode) -> dict:
    """Return what the header says about the chapter (not which programs wrote it)."""
    return {key: notebook.metadata[key] for key in ("mystnb", "sdelib") if key in notebook.metadata}


def differences(root: Path, stem: str) -> list[str]:
    text, notebook = root / "book" / f"{stem}.md", root / "notebooks" / f"{stem}.ipynb"
    if not notebook.exists():
        return [f"{stem}: notebooks/{stem}.ipynb does not exist: run `python tools/execute.py {stem}`"]
    source, executed = read_text(text), nbformat.read(notebook, as_version=4)
    ours, theirs = [content(c) for c in source.cells], [content(c) for c in executed.cells]
    found = []
    if header(source) != header(executed):
        found.append(f"{stem}: the headers differ: {header(source)} in the text, {header(executed)} in the notebook")
    for i, (a, b) in enumerate(zip(ours, theirs, strict=False)):
        if a != b:
            key = next(k for k in a if a[k] != b[k])
            lines = difflib.unified_diff(
                str(a[key]).splitlines(),
                str(b[key]).splitlines(),
                f"book/{stem}.md",
                f"notebooks/{stem}.ipynb",
                lineterm="",
            )
            found.append(f"{stem}: cell {i} differs in its {key}\n" + "\n".join(f"    {line}" for line in lines))
            break  # a missing cell makes all later ones differ: name the first
    if not found and len(ours) != len(theirs):
        found.append(f"{stem}: the text has {len(ours)} cells, the notebook {len(theirs)}")
    return found


def check(root: Path = ROOT) -> list[str]:
    stems = chapters(root)
    problems = [d for stem in stems for d in differences(root, stem)]
    orphans = {p.stem for p in (root / "notebooks").glob("*.ipynb")} - set(stems)
    problems += [
        f"{s}: notebooks/{s}.ipynb has no book/{s}.md whose header says `formats: {FORMATS}`" for s in sorted(orphans)
    ]
    return problems


def to_text(root: Path, stem: str, *, write: bool) -> int:
    text = root / "book" / f"{stem}.md"
    old = text.read_text(encoding="utf-8")
    new = jupytext.writes(nbformat.read(root / "notebooks" / f"{stem}.ipynb", as_version=4), fmt="md:myst")
    diff = list(
        difflib.unified_diff(old.splitlines(), new.splitlines(), "text now", "text from the notebook", lineterm="")
    )
    print("\n".join(diff) or f"{stem}: nothing would change")
    if diff and write:
        text.write_text(new, encoding="utf-8")
        print(f"{stem}: wrote book/{stem}.md")
    elif diff:
        print(f"{stem}: nothing written; add --write to replace book/{stem}.md")
    return 0


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("command", choices=["check", "to-text"])
    parser.add_argument("stem", nargs="?", help="the chapter, for to-text")
    parser.add_argument("--write", action="store_true", help="to-text: replace the text")
    parser.add_argument("--root", type=Path, default=ROOT, help="the book's root (default: this repository)")
    args = parser.parse_args(argv)
    if args.command == "to-text":
        if args.stem not in chapters(args.root):
            parser.error(
                f"to-text needs one of {', '.join(chapters(args.root)) or '(no chapter exists)'}, got {args.stem}"
            )
        return to_text(args.root, args.stem, write=args.write)
    problems = check(args.root)
    for problem in problems:
        print(problem)
    print(f"pairs: {len(chapters(args.root))} chapters, {len(problems)} problems")
    return bool(problems)


if __name__ == "__main__":
    sys.exit(main())
