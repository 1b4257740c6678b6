"""Render the book to _build/html with warnings as errors.

python tools/site.py build            every page of _toc.yml
python tools/site.py build --draft    leave out chapters that are not executed yet (references to them will fail)
python tools/site.py build --out DIR  to DIR/_build/html
"""

import argparse
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

import yaml

ROOT = Path(__file__).resolve().parent.parent


def pages(toc: dict) -> list[dict]:
    """Return the lists' entries that name files, wherever they stand in the table of contents."""
    found = []
    todo = [c for part in toc.get("parts", [toc]) for c in part.get("chapters", [])]
    while todo:
        found.append(todo.pop(0))
        todo = found[-1].get("sections", []) + todo
    return found


def missing(root: Path, toc: dict) -> list[str]:
    names = [toc["root"], *(c["file"] for c in pages(toc))]
    return [n for n in names if not any((root / f"{n}{end}").exists() for end in (".md", ".ipynb"))]


def build(root: Path, *, out: Path | None = None, draft: bool = False) -> int:
    out = out or root
    # pages of sources are not written anew while the source stays, though the entries that they lead to may have moved
    shutil.rmtree(out / "_build" / "html" / "_modules", ignore_errors=True)
    toc_file = root / "_toc.yml"
    toc = yaml.safe_load(toc_file.read_text(encoding="utf-8"))
    absent = missing(root, toc)
    command = [sys.executable, "-c", "from jupyter_book.cli.main import main; main()", "build", str(root)]
    # all pages anew: a page that did not change may link to a claim that did
    command += ["--all", "-W", "-n", "--keep-going", "--path-output", str(out)]
    with tempfile.TemporaryDirectory() as folder:
        if absent and not draft:
            print(f"_toc.yml names pages that do not exist: {', '.join(absent)}. Run `python tools/execute.py` first.")
            return 1
        if absent:
            print(f"draft: without {', '.join(absent)}")
            for part in toc.get("parts", [toc]):
                part["chapters"] = [c for c in part.get("chapters", []) if c["file"] not in absent]
            if "parts" in toc:
                toc["parts"] = [part for part in toc["parts"] if part["chapters"]]
            toc_file = Path(folder) / "_toc.yml"
            toc_file.write_text(yaml.safe_dump(toc, sort_keys=False), encoding="utf-8")
        code = subprocess.run([*command, "--toc", str(toc_file)], check=False).returncode
    if code:
        print("The book was not built: see the warnings above; each is an error.")
        return 1
    index = out / "_build" / "html" / "index.html"
    index.touch()  # Jupyter Book leaves an old redirect as it is; its date says when the book was rendered
    print(f"Open {index}")
    return 0


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("command", choices=["build"])
    parser.add_argument("--draft", action="store_true", help="leave out chapters that are not executed yet")
    parser.add_argument("--root", type=Path, default=ROOT, help="the book's root (default: this repository)")
    parser.add_argument("--out", type=Path, help="where to build (default: the root)")
    args = parser.parse_args(argv)
    return build(args.root.resolve(), out=args.out and args.out.resolve(), draft=args.draft)


if __name__ == "__main__":
    sys.exit(main())
