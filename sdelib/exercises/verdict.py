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
        said = re.sub(r"`([^`]+)`", r"<code>\1</code>", html.escape(self.message, quote=False))
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
