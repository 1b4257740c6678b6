"""What must hold for every exercise of a stored chapter, as a function, so that tests can plant faults."""

import json
import re
from pathlib import Path

from tests.book.checks import joined

STATEMENT = re.compile(r"^`{3,}\{exercise\}[^\n]*\n:label: (\S+)$", re.MULTILINE)
START = re.compile(r"^`{3,}\{solution-start\} (\S+)$", re.MULTILINE)
END = re.compile(r"^`{3,}\{solution-end\}$", re.MULTILINE)
FILTER = "tags,mystnb,-all"  # what keeps the folds out of the text, and in the notebook when JupyterLab opens the pair


def labels(root: Path, stem: str) -> list[str]:
    """Return the labels of a chapter's exercises, in order."""
    return STATEMENT.findall((root / "book" / f"{stem}.md").read_text(encoding="utf-8"))


def exercise_problems(root: Path, stem: str) -> list[str]:
    """Exercises without hint, stub, check or solution; checks stored with another status; solutions that lie open."""
    stored = json.loads((root / "notebooks" / f"{stem}.ipynb").read_text(encoding="utf-8"))
    problems = []
    if stored["metadata"].get("jupytext", {}).get("cell_metadata_filter") != FILTER:
        problems.append(f"{stem}: its header needs `cell_metadata_filter: {FILTER}` under `jupytext:`")
    now, solved, hints = "", "", set()
    statuses: dict[str, list[str]] = {label: [] for label in labels(root, stem)}
    for i, cell in enumerate(stored["cells"]):
        source, where = joined(cell["source"]), f"{stem}, cell {i}"
        folded = cell["metadata"].get("jupyter", {})
        if cell["cell_type"] == "markdown":
            end = END.search(source)
            if end and source[: end.start()].strip():
                problems.append(
                    f"{where}: text of a solution stands in its last cell: put `+++` before the solution's end"
                )
            elif solved and not end and not folded.get("source_hidden"):
                problems.append(f"{where}: text of the solution of {solved} lies open in JupyterLab")
            elif solved and not end and not source.startswith("% "):
                problems.append(
                    f"{where}: JupyterLab shows a folded cell's first line: begin with `% the solution goes on`"
                )
            solved = "" if end else solved
            for mark in sorted([*STATEMENT.finditer(source), *START.finditer(source)], key=lambda m: m.start()):
                starts = mark.re is START
                now, solved = ("", mark[1]) if starts else (mark[1], "")
                before = source[: mark.start()]
                if starts and "{admonition} Hint" in before:
                    hints.add(mark[1])
            continue
        hide = "hide-input" in cell["metadata"].get("tags", [])
        if (solved and not (folded.get("source_hidden") and folded.get("outputs_hidden"))) or (
            hide and not folded.get("source_hidden")
        ):
            problems.append(f"{where}: lies open in JupyterLab: run tools/execute.py")
        for record in (o.get("metadata", {}).get("sdelib_check") for o in cell["outputs"]):
            if record is None:
                continue
            label, status = record["label"], record["status"]
            place = "the solution" if solved else "the stub"
            if label not in statuses or label != (solved or now):
                problems.append(f"{where}: checks {label} inside {solved or now or 'no exercise'}")
            elif status != ("right" if solved else "open"):
                problems.append(
                    f"{where}: {place} of {label} is {status}: {joined(cell['outputs'][0]['data']['text/plain'])}"
                )
            statuses.setdefault(label, []).append(status)
    for label, found in statuses.items():
        if found != ["open", "right"]:
            problems.append(
                f"{stem}: {label} stores {found or 'no check'} where an open stub, then a right solution is wanted"
            )
        if label not in hints:
            problems.append(f"{stem}: {label} has no hint before its solution")
    return problems
