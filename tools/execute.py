"""Make the notebooks from the texts: run each chapter from a clean kernel, in order, and store what it shows.

python tools/execute.py                the chapters whose text, library or recorded data changed
python tools/execute.py STEM...        these, if they changed (ch01 is enough for ch01_scores_langevin)
python tools/execute.py --force ...    whether they changed or not

What a chapter was made from is stored as hashes in its notebook's metadata, so that a clone, where dates mean
nothing, knows as much as the machine that ran it. The library counts without its comments and docstrings. Recorded
data count where a chapter's header lists them: `inputs: [path, ...]` under `sdelib:`.
Output is normalised (no times, no random ids), so that running twice leaves no difference. Where only words changed and
not a line of code, library or data, nothing is run: the stored outputs, which would come out the same, are kept.
"""

import argparse
import ast
import hashlib
import json
import re
import sys
import time
from pathlib import Path

import nbformat
from nbclient import NotebookClient
from nbclient.exceptions import CellExecutionError

sys.path.insert(0, str(Path(__file__).resolve().parent))
from pairs import ROOT, chapters, content, header, read_text

TIMEOUT = 600
VIEW = "application/vnd.jupyter.widget-view+json"


# ---------------------------------------------------------------- what a chapter is made from
def digest(*parts: str | bytes) -> str:
    h = hashlib.sha256()
    for part in parts:
        h.update(part if isinstance(part, bytes) else part.encode())
        h.update(b"\0")
    return h.hexdigest()[:16]


def essence(source: str) -> str:
    """Return a module without docstrings, comment lines and blank lines: what can change a result.

    >>> essence('"What it is."\\n# why\\nx = 1\\n\\ndef f():\\n    "Doc."\\n    return x\\n')
    'x = 1\\ndef f():\\n    return x'
    """
    lines = source.splitlines()
    drop = set()
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef) and node.body:
            first = node.body[0]
            if (
                isinstance(first, ast.Expr)
                and isinstance(first.value, ast.Constant)
                and isinstance(first.value.value, str)
            ):
                drop |= set(range(first.lineno - 1, first.end_lineno or first.lineno))
    kept = (line.rstrip() for i, line in enumerate(lines) if i not in drop)
    return "\n".join(line for line in kept if line and not line.lstrip().startswith("#"))


def stamp(root: Path, stem: str) -> dict[str, str]:
    """Return the hashes of a chapter's text, of the library and of the recorded data it lists."""
    notebook = read_text(root / "book" / f"{stem}.md")
    graders = f"{stem.split('_')[0]}.py"  # those of other chapters' exercises change nothing here
    library = [
        p for p in sorted((root / "sdelib").rglob("*.py")) if p.parent.name != "exercises" or is_shared(p, graders)
    ]
    inputs = notebook.metadata.get("sdelib", {}).get("inputs", [])
    return {
        "text": digest(
            *(json.dumps(part, sort_keys=True) for part in (header(notebook), *map(content, notebook.cells)))
        ),
        "library": digest(
            *(f"{p.relative_to(root).as_posix()}\n{essence(p.read_text(encoding='utf-8'))}" for p in library)
        ),
        "inputs": digest(*((root / name).read_bytes() for name in inputs)),
    }


def is_shared(path: Path, graders: str) -> bool:
    return path.name == graders or not re.fullmatch(r"ch\d+\.py", path.name)


def stored_stamp(path: Path) -> dict[str, str]:
    if not path.exists():
        return {}
    return json.loads(path.read_text(encoding="utf-8"))["metadata"].get("sdelib_stamp", {})


# ---------------------------------------------------------------- running
def execute(root: Path, stem: str) -> nbformat.NotebookNode:
    """Run a chapter from its text in a fresh kernel, where the notebook lies, and return it normalised."""
    made_from = stamp(root, stem)  # before running, which takes a while: what is edited meanwhile is not in it
    notebook = read_text(root / "book" / f"{stem}.md")
    notebook.nbformat, notebook.nbformat_minor = 4, 5
    name_cells(notebook)
    client = NotebookClient(
        notebook,
        timeout=TIMEOUT,
        kernel_name="python3",
        record_timing=False,
        coalesce_streams=True,
        extra_arguments=["--log-level=ERROR"],
        resources={"metadata": {"path": str(root / "notebooks")}},
    )
    client.execute()
    normalise(notebook)
    fold(notebook)
    notebook.metadata["sdelib_stamp"] = made_from
    return notebook


def reworded(root: Path, stem: str) -> nbformat.NotebookNode | None:
    """Return the chapter's present words around its stored outputs, or None if its code is not what was run."""
    made_from = stamp(root, stem)
    notebook = read_text(root / "book" / f"{stem}.md")
    stored = nbformat.read(root / "notebooks" / f"{stem}.ipynb", as_version=4)
    cells, before = ([c for c in n.cells if c.cell_type == "code"] for n in (notebook, stored))
    if [runs_as(c) for c in cells] != [runs_as(c) for c in before]:
        return None
    for cell, old in zip(cells, before, strict=True):
        cell.outputs, cell.execution_count = old.outputs, old.execution_count
    for key in {"language_info", "widgets"} & stored.metadata.keys():
        notebook.metadata[key] = stored.metadata[key]
    notebook.nbformat, notebook.nbformat_minor = 4, 5
    name_cells(notebook)
    normalise(notebook)
    fold(notebook)
    notebook.metadata["sdelib_stamp"] = made_from
    return notebook


def runs_as(cell: nbformat.NotebookNode) -> tuple[str, list[str]]:
    tags = cell.metadata.get("tags", [])
    return cell.source.rstrip(), [tag for tag in tags if tag in ("raises-exception", "skip-execution")]


def name_cells(notebook: nbformat.NotebookNode) -> None:
    """Give each cell an id that depends on what it says, so that ids change only where the text does."""
    seen: dict[str, int] = {}
    for cell in notebook.cells:
        key = digest(cell.cell_type, cell.source)[:8]
        seen[key] = seen.get(key, 0) + 1
        cell["id"] = key if seen[key] == 1 else f"{key}-{seen[key]}"


def normalise(notebook: nbformat.NotebookNode) -> None:
    """Remove what differs from run to run and is no result: interpreter version, random names of widgets."""
    notebook.metadata.get("language_info", {}).pop("version", None)
    notebook.metadata.get("jupytext", {}).pop("text_representation", None)  # JupyterLab drops it when it saves
    widgets = notebook.metadata.get("widgets", {}).get("application/vnd.jupyter.widget-state+json", {})
    state = widgets.get("state", {})
    shown, replaced = [], []
    for output in (o for cell in notebook.cells for o in cell.get("outputs", [])):
        view = output.get("data", {}).get(VIEW)
        if view and "text/html" in output.data:  # HTML that needs no kernel: its live twin would only be a broken model
            replaced.append(output.data.pop(VIEW)["model_id"])
        elif view:
            shown.append(view["model_id"])
    for model in reach(state, replaced):
        if model not in reach(state, shown):
            del state[model]
    if not state or not shown:  # models that no output shows would make the page load the widgets' scripts for nothing
        notebook.metadata.pop("widgets", None)
        return
    order = reach(state, [*shown, *state])  # those shown first, then what they refer to, then the rest as created
    names = {old: f"{i:032x}" for i, old in enumerate(order)}
    text = re.sub(r"[0-9a-f]{32}", lambda m: names.get(m[0], m[0]), json.dumps(notebook))
    renamed = nbformat.from_dict(json.loads(text))
    states = renamed.metadata["widgets"]["application/vnd.jupyter.widget-state+json"]
    states["state"] = dict(sorted(states["state"].items()))
    notebook.update(renamed)


def reach(state: dict, models: list[str]) -> list[str]:
    """Return these widgets and those they refer to, depth first."""
    order: list[str] = []
    queue = list(models)
    while queue:
        model = queue.pop(0)
        if model in state and model not in order:
            order.append(model)
            queue[:0] = re.findall(r"IPY_MODEL_(\w+)", json.dumps(state[model]))
    return order


def fold(notebook: nbformat.NotebookNode) -> None:
    """Let JupyterLab open the notebook as the page looks: solutions folded, and the code of `hide-input` cells.

    The key is JupyterLab's own. It stays in the notebook: `cell_metadata_filter` keeps it out of the text.
    """
    inside = False
    for cell in notebook.cells:
        if cell.cell_type == "markdown" and "{solution-start}" in cell.source:
            inside = True  # its own cell stays, as the heading
        elif cell.cell_type == "markdown" and "{solution-end}" in cell.source:
            inside = False
        elif cell.cell_type == "code" and (inside or "hide-input" in cell.metadata.get("tags", [])):
            cell.metadata["jupyter"] = {"source_hidden": True} | ({"outputs_hidden": True} if inside else {})
        elif inside:
            cell.metadata["jupyter"] = {"source_hidden": True}


def write(path: Path, notebook: nbformat.NotebookNode) -> None:
    nbformat.validate(notebook)
    path.parent.mkdir(exist_ok=True)
    partial = path.with_suffix(".partial")
    partial.write_text(nbformat.writes(notebook) + "\n", encoding="utf-8")
    partial.replace(path)


def describe(notebook: nbformat.NotebookNode, error: CellExecutionError) -> str:
    """Say which cell failed, how it begins, and with what."""
    failed = next(
        (
            (i, cell)
            for i, cell in enumerate(notebook.cells)
            if any(o.output_type == "error" for o in cell.get("outputs", []))
            and "raises-exception" not in cell.metadata.get("tags", [])
        ),
        (None, None),
    )
    first = failed[1].source.splitlines()[0] if failed[1] is not None else "?"
    return f"cell {failed[0]} (`{first}`) raised {error.ename}: {error.evalue}"


def run(root: Path, stem: str) -> bool:
    path = root / "notebooks" / f"{stem}.ipynb"
    path.parent.mkdir(exist_ok=True)
    print(f"{stem}: running ...", end="", flush=True)
    start = time.perf_counter()
    try:
        notebook = execute(root, stem)
    except CellExecutionError as error:
        print(f"\r{stem}: FAILED after {time.perf_counter() - start:.1f} s: {error}")
        print(f"{stem}: the stored notebook is left as it was")
        return False
    write(path, notebook)
    cells = sum(cell.cell_type == "code" for cell in notebook.cells)
    size = path.stat().st_size / 1e3
    print(f"\r{stem}: ran {cells} cells in {time.perf_counter() - start:.1f} s, wrote {size:.0f} kB")
    return True


def select(root: Path, wanted: list[str]) -> list[str]:
    stems = chapters(root)
    names = [Path(w).stem for w in wanted]
    unknown = [n for n in names if not any(s == n or s.split("_")[0] == n for s in stems)]
    if unknown:
        raise SystemExit(f"no chapter {', '.join(unknown)}; there are {', '.join(stems) or 'none'}")
    return [s for s in stems if not names or s in names or s.split("_")[0] in names]


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("stems", nargs="*", metavar="STEM")
    parser.add_argument("--force", action="store_true", help="run chapters that did not change, too")
    parser.add_argument("--root", type=Path, default=ROOT, help="the book's root (default: this repository)")
    args = parser.parse_args(argv)
    good = True
    for stem in select(args.root, args.stems):
        now, then = stamp(args.root, stem), stored_stamp(args.root / "notebooks" / f"{stem}.ipynb")
        changed = [name for name in now if now[name] != then.get(name)]
        if not changed and not args.force:
            print(f"{stem}: unchanged")
            continue
        if changed == ["text"] and not args.force and (notebook := reworded(args.root, stem)):
            write(args.root / "notebooks" / f"{stem}.ipynb", notebook)
            print(f"{stem}: only words changed, outputs kept")
            continue
        good &= run(args.root, stem)
    return not good


if __name__ == "__main__":
    sys.exit(main())
