"""The box below an answer: not answered yet, wrong and how, or right."""

import html
import re
import sys
from dataclasses import dataclass

__all__ = ["Verdict", "show"]

AGAIN = "Mend the cell and run it again; the hint below says where to begin."
SIGNS = {"open": "○", "wrong": "✗", "right": "✓"}
WORDS = {"open": "Not answered yet.", "wrong": "Not right yet.", "right": "Right."}


@dataclass(frozen=True)
class Verdict:
    """What is said about an answer: its ``label``, ``status`` ("open", "wrong", "right"), what was ``asked``, ``remark``."""

    label: str
    status: str
    asked: tuple[str, ...]
    remark: str = ""

    @property
    def message(self) -> str:
        """The words after the status."""
        if self.status == "right":
            return self.remark
        if self.status == "wrong":
            return f"{self.remark} {AGAIN}"
        return " ".join(filter(None, [f"Wanted: {'; '.join(line.rstrip('.') for line in self.asked)}.", self.remark]))

    @property
    def text(self) -> str:
        """The line where no page is rendered."""
        return f"{SIGNS[self.status]} {self.label}: {WORDS[self.status]} {self.message}".rstrip()

    @property
    def html(self) -> str:
        """The box of a page. Word and sign tell the status; the bar's colours read in light and dark."""
        color = {"open": "#8a8f98", "wrong": "#d1495b", "right": "#2a9d8f"}[self.status]
        said = _code(self.message)
        if self.status == "open" and len(self.asked) > 1:
            items = "".join(f"<li>{_code(line)}</li>" for line in self.asked)
            said = f'Wanted:<ul style="margin:0;padding-left:1.2em">{items}</ul>{_code(self.remark)}'
        elif self.status == "open":
            said = f"Wanted: {_code(self.asked[0])}"
        return (
            f'<div class="sdelib-check sdelib-check-{self.status}" '
            f'style="border-left:3px {"dashed" if self.status == "open" else "solid"} {color};'
            'padding:0 0 0 .75em;margin:.4em 0;line-height:1.45">'
            f'<b class="sdelib-check-word">{SIGNS[self.status]} {WORDS[self.status]}</b> {said}</div>'
        )

    def record(self) -> dict[str, str]:
        """Return label and status, for the output's metadata."""
        return {"label": self.label, "status": self.status}


def show(verdict: Verdict) -> None:
    """Display the ``verdict`` in a notebook, print it elsewhere."""
    ipython = sys.modules.get("IPython")
    if ipython is None or ipython.get_ipython() is None:
        print(verdict.text)  # noqa: T201 - the line is the function's output
        return
    from IPython.display import display

    display(
        {"text/plain": verdict.text, "text/html": verdict.html},
        raw=True,
        metadata={"sdelib_check": verdict.record()},
    )


def _code(words: str) -> str:
    """Escape, and set as code what stands in backticks and the name that a line begins with."""
    escaped = html.escape(words, quote=False)
    named = re.sub(r"^(\w+\([^)]*\)|\w+)(?=: )", r"<code>\1</code>", escaped)
    return re.sub(r"`([^`]+)`", r"<code>\1</code>", named)
