"""The numbers a chapter asserts, checked where they are printed.

A sentence such as "the chain's variance is 1.0526, not 1" is a promise. :func:`claim` keeps it: the number just
computed is compared with the truth, the comparison is shown on the page in one line, and the whole record is stored
with the output, from which ``tools/claims.py`` and the register of the book read it. A claim has three forms:

* near a truth, ``|value - truth| <= atol + rtol |truth|``;
* bounded, ``value <= below``, ``value >= above`` or both;
* exact, ``value == truth``, for counts and yes-or-no questions.

No tolerance goes without its reason (``because``), no truth without its origin (``source``).
"""

import html
import math
import re
import sys
from dataclasses import asdict, dataclass
from typing import Any

__all__ = ["Claim", "ClaimError", "anchor", "claim"]

ID = re.compile(r"[1-9]\d?\.[1-9]\d?-[a-z0-9]+(-[a-z0-9]+)*")
Number = float | int | bool


class ClaimError(AssertionError):
    """A number on the page is not what the page says it is."""


def claim(
    id: str,  # the word that pages and links use
    statement: str,
    value: Any,
    truth: Any = None,
    *,
    atol: float = 0.0,
    rtol: float = 0.0,
    below: float | None = None,
    above: float | None = None,
    exact: bool = False,
    because: str,
    source: str,
) -> None:
    """Assert ``|value - truth| <= atol + rtol |truth|``, or a bound, or equality, and show it in one line.

    Args:
        id: chapter, number and a short name: ``"1.3-langevin-bias"``. Links in the text and the register use it.
        statement: what is measured, in words, without mathematics mark-up: ``"variance of the chain at step 0.1"``.
        value: what this cell has just computed: a number or anything with one element (a 0-dimensional tensor, a NumPy
            scalar). It is stored in full and shown to the digits the tolerance allows.
        truth: what it should be. Needs ``atol``, ``rtol`` or ``exact``.
        atol, rtol: absolute and relative tolerance, at least one of them positive.
        below, above: bounds, both included, instead of a truth.
        exact: the value equals the truth: for counts and truth values.
        because: why the tolerance or the bound is what it is: ``"three standard errors of 200,000 walkers"``.
        source: where the truth comes from: ``"closed form, eq. 2"``.

    Raises:
        ClaimError: if the claim does not hold. A value that is not finite never holds.
        ValueError, TypeError: if an argument cannot make a claim.

    >>> claim("1.1-half", "a half, measured", 0.503, 0.5, atol=0.01, because="an example", source="arithmetic")
    ✓ 1.1-half: a half, measured: measured 0.503; truth 0.500 ± 0.01 (an example). Source: arithmetic.
    """
    record = Claim(
        id=id,
        statement=statement,
        value=_scalar("value", value),
        truth=None if truth is None else _scalar("truth", truth),
        atol=float(atol),
        rtol=float(rtol),
        below=None if below is None else float(below),
        above=None if above is None else float(above),
        exact=exact,
        because=because,
        source=source,
    )
    if not record.holds:
        raise ClaimError(f"claim {record.id} is false: {record.statement}: {record.comparison}; {record.miss}")
    _show(record)


@dataclass(frozen=True)
class Claim:
    """One record of the register; its arguments are those of :func:`claim`, which says what they mean."""

    id: str
    statement: str
    value: Number
    truth: Number | None = None
    atol: float = 0.0
    rtol: float = 0.0
    below: float | None = None
    above: float | None = None
    exact: bool = False
    because: str = ""
    source: str = ""

    def __post_init__(self) -> None:
        """Refuse what cannot be a claim."""
        if not isinstance(self.id, str) or not ID.fullmatch(self.id):
            raise ValueError(
                f"id must look like '1.3-langevin-bias' (chapter.number-name, lower case), got {self.id!r}"
            )
        for name in ("statement", "because", "source"):
            text = getattr(self, name)
            if not isinstance(text, str) or not text.strip() or "\n" in text:
                raise ValueError(f"{name} must be one line of words that is not empty, got {text!r} in claim {self.id}")
        for name in ("atol", "rtol"):
            if not 0 <= getattr(self, name) < math.inf:
                raise ValueError(f"{name} must be finite and >= 0, got {getattr(self, name)!r} in claim {self.id}")
        bounded = self.below is not None or self.above is not None
        if (self.truth is not None) == bounded:
            raise ValueError(f"claim {self.id} needs either a truth or a bound (below, above)")
        tolerant = self.atol > 0 or self.rtol > 0
        if self.truth is not None and tolerant == self.exact:
            raise ValueError(
                f"a truth needs atol or rtol > 0, or else exact=True, "
                f"got atol={self.atol}, rtol={self.rtol}, exact={self.exact} in claim {self.id}"
            )
        if self.truth is not None and self.tolerance == 0 and not self.exact:
            raise ValueError(f"rtol={self.rtol} tolerates nothing around truth 0 in claim {self.id}: give atol")
        if bounded and (tolerant or self.exact):
            raise ValueError(f"a bound is its own tolerance: no atol, rtol or exact with it, in claim {self.id}")
        if self.below is not None and self.above is not None and not self.above < self.below:
            raise ValueError(f"above must be less than below, got above={self.above}, below={self.below}")
        for name in ("truth", "below", "above"):
            number = getattr(self, name)
            if number is not None and not math.isfinite(number):
                raise ValueError(f"{name} must be finite, got {number} in claim {self.id}")

    @property
    def tolerance(self) -> float:
        """Half-width of the interval around the truth."""
        return self.atol + self.rtol * abs(self.truth or 0)

    @property
    def holds(self) -> bool:
        """Whether the stored value satisfies the claim."""
        if not math.isfinite(self.value):
            return False
        if self.truth is not None:
            return self.value == self.truth if self.exact else abs(self.value - self.truth) <= self.tolerance
        return (self.below is None or self.value <= self.below) and (self.above is None or self.value >= self.above)

    @property
    def measured(self) -> str:
        """The value, to the digits that the tolerance gives a meaning."""
        return self._digits(self.value)

    @property
    def expected(self) -> str:
        """The truth with its tolerance, or the bound."""
        if self.truth is not None:
            if self.exact:
                return f"truth {self._digits(self.truth)}, exactly"
            parts = [f"{self.atol:g}"] * (self.atol > 0) + [f"{100 * self.rtol:g} %"] * (self.rtol > 0)
            return f"truth {self._digits(self.truth)} ± {' ± '.join(parts)}"
        if self.below is not None and self.above is not None:
            return f"must lie between {self.above:g} and {self.below:g}"
        return f"must be at most {self.below:g}" if self.below is not None else f"must be at least {self.above:g}"

    @property
    def comparison(self) -> str:
        """Measured beside expected, with the reason of the tolerance."""
        return f"measured {self.measured}; {self.expected} ({self.because})"

    @property
    def miss(self) -> str:
        """By how much a false claim fails."""
        if self.truth is None or self.exact or not math.isfinite(self.value):
            return f"got {self.value!r}"
        off = abs(self.value - self.truth)
        return f"off by {off:.3g}, {off / self.tolerance:.3g} times the tolerance {self.tolerance:.3g}"

    @property
    def text(self) -> str:
        """The line shown where no page is rendered, the same on every run but for the measured number."""
        return f"✓ {self.id}: {self.statement}: {self.comparison}. Source: {self.source}."

    @property
    def html(self) -> str:
        """The line for a page; colours come from the page, so that it reads in light and dark."""
        said = {name: html.escape(getattr(self, name)) for name in ("statement", "expected", "because", "source")}
        return (
            f'<div class="sdelib-claim" id="{anchor(self.id)}" '
            'style="border-left:3px solid #2a9d8f;padding:0 0 0 .75em;margin:.4em 0;line-height:1.45">'
            f'<span class="sdelib-claim-id">✓ {self.id}</span> {said["statement"]}: '
            f'measured <b class="sdelib-measured">{self.measured}</b>; {said["expected"]} '
            f'<span class="sdelib-claim-why" style="opacity:.8">({said["because"]}). Source: {said["source"]}.</span>'
            "</div>"
        )

    def record(self) -> dict[str, Any]:
        """Return the claim as plain data, for the output's metadata."""
        return asdict(self)

    def _digits(self, x: Number) -> str:
        if isinstance(x, bool):
            return "yes" if x else "no"
        if isinstance(x, int) or not math.isfinite(x):
            return str(x)
        if self.exact:
            return f"{x:.12g}"
        if x == 0:
            return "0"
        # one digit beyond the tolerance's first; three significant ones where there is only a bound; eight at most
        size = math.floor(math.log10(abs(x)))
        last = math.floor(math.log10(self.tolerance)) - 1 if self.truth is not None else size - 2
        last = max(last, size - 7)
        if -4 <= size < 6:
            return f"{x:.{max(0, -last)}f}"
        return f"{x:.{max(0, size - last)}e}"


def anchor(id: str) -> str:
    """Return the fragment under which pages show the claim of this id: ``1.3-a`` becomes ``claim-1-3-a``."""
    return "claim-" + id.replace(".", "-")


def _scalar(name: str, x: Any) -> Number:
    if isinstance(x, bool | int | float):
        return x
    item = getattr(x, "item", None)
    try:
        number = item() if item is not None else x.__float__()
    except (AttributeError, TypeError, ValueError, RuntimeError):
        number = None
    if not isinstance(number, bool | int | float):
        kind = f"{type(x).__name__} of shape {tuple(x.shape)}" if hasattr(x, "shape") else repr(x)
        raise TypeError(f"{name} must be one real number (reduce arrays first, say to their largest error), got {kind}")
    return number


def _show(record: Claim) -> None:
    ipython = sys.modules.get("IPython")
    if ipython is None or ipython.get_ipython() is None:
        print(record.text)  # noqa: T201 - the line is the function's output
        return
    from IPython.display import display

    display(
        {"text/plain": record.text, "text/html": record.html},
        raw=True,
        metadata={"sdelib_claim": record.record()},
    )
