"""Exercises that answer back: a chapter's stub calls :func:`check`, which says open, wrong (and what is wrong) or right.

A stub stands below the exercise; the executed solution checks the same label at its end:

    def stationary_variance(step, std):
        return ...  # your line

    check("ex-1-bias", stationary_variance)

``...`` is an answer not given yet. The graders of chapter N are functions in ``sdelib/exercises/chNN.py``, marked by
:func:`grader`, loaded when first needed. A grader receives the answers, raises :class:`Wrong` (:func:`near` does so
for numbers) or returns what may be said once all is right. It asks for values in a few places rather than for one
number, so that what it accepts is a method, and it knows the likely mistakes by their values.
"""

import importlib
import inspect
import re
import sys
import traceback
from collections.abc import Callable, Iterable, Mapping
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from functools import partial, wraps
from types import BuiltinFunctionType, FunctionType, MethodType
from typing import Any

import numpy as np

from sdelib.exercises.verdict import Verdict, show

__all__ = ["check", "grader", "near", "Wrong", "Grader", "Verdict", "graders", "judge"]

LABEL = re.compile(r"ex-([1-9]\d?)-[a-z0-9]+(-[a-z0-9]+)*")


# ---------------------------------------------------------------- what chapters call
def check(label: str, *answers: Any) -> None:
    """Grade answers to the exercise of this label, and say in one box: not answered yet, wrong and how, or right.

    A wrong answer raises nothing, so that a notebook runs on; nor does an answer that itself raises.

    Args:
        label: the exercise's label, ``"ex-1-bias"``.
        *answers: what it asks for, in that order: functions, numbers, tensors. ``...`` or None, and a function that
            returns them or raises NotImplementedError, is an answer not given yet.

    Raises:
        ValueError: if no exercise has this label.
        TypeError: if it asks for another number of answers.
    """
    show(judge(label, *answers))


def judge(label: str, *answers: Any) -> Verdict:
    """Return what :func:`check` shows.

    Args:
        label: as for :func:`check`.
        *answers: as for :func:`check`.

    Raises:
        ValueError: if no exercise has this label.
        TypeError: if it asks for another number of answers.
    """
    one = _find(label)
    if len(answers) != len(one.parts):
        raise TypeError(
            f"check({label!r}, ...) takes {len(one.parts)} answer{'s' * (len(one.parts) > 1)} "
            f"({', '.join(one.parts)}), got {len(answers)}"
        )
    if all(_blank(answer) for answer in answers):
        return Verdict(label, "open", one.asked)
    for name, answer in zip(one.parts, answers, strict=True):
        if any(line.startswith(f"{name}(") for line in one.asked) and not (callable(answer) or _blank(answer)):
            return Verdict(label, "wrong", one.asked, f"{name} must be a function, got {answer!r}.")
    given = [_guarded(name, answer) for name, answer in zip(one.parts, answers, strict=True)]
    try:
        with _own_randomness():
            praise = one(*given)
    except Untouched as missing:
        begun = str(missing) in one.parts[1:]  # of an untouched stub, what is wanted is said already
        return Verdict(label, "open", one.asked, f"{missing} is still to be filled in." if begun else "")
    except Wrong as wrong:
        return Verdict(label, "wrong", one.asked, str(wrong))
    except Exception as error:  # what an answer returned did not survive the grader's arithmetic
        said = f"The check could not use this answer: {type(error).__name__}: {error}."
        return Verdict(label, "wrong", one.asked, said)
    return Verdict(label, "right", one.asked, praise)


# ---------------------------------------------------------------- what graders are made of
class Wrong(Exception):
    """An answer is wrong; the message says what is wrong with it, and does not give the answer away."""


class Untouched(Exception):
    """A part of the answer is not given yet; the message is its name."""


@dataclass(frozen=True)
class Grader:
    """One exercise's judge: its ``label``, what is ``asked`` (a line an answer) and the ``function`` that grades."""

    label: str
    asked: tuple[str, ...]
    function: Callable[..., str]

    def __call__(self, *answers: Any) -> str:
        """Raise :class:`Wrong`, or return what to say when all ``answers`` are right."""
        return self.function(*answers)

    @property
    def parts(self) -> list[str]:
        """The names of the answers, which are the grader's parameters."""
        return list(inspect.signature(self.function).parameters)


GRADERS: dict[str, Grader] = {}


def grader(label: str, *asked: str) -> Callable[[Callable[..., str]], Grader]:
    """Mark a function as the grader of an exercise; its parameters are the answers, named as in the stub.

    Args:
        label: the exercise's label; its number is the module's.
        *asked: what is wanted, usually one line an answer: ``"stationary_variance(step, std): the variance at ..."``.

    Raises:
        ValueError: if the label does not look like one of this module's chapter, or nothing is asked.
    """
    found = LABEL.fullmatch(label)
    if not found:
        raise ValueError(f"label must look like 'ex-1-bias' (chapter, then a name in lower case), got {label!r}")
    if not asked or not all(line.strip() and "\n" not in line for line in asked):
        raise ValueError(f"asked must be lines of words that are not empty, got {asked!r} for {label}")

    def mark(function: Callable[..., str]) -> Grader:
        if function.__module__.rpartition(".")[2] != f"ch{int(found[1]):02d}":
            raise ValueError(f"the grader of {label} belongs in ch{int(found[1]):02d}.py, not {function.__module__}")
        GRADERS[label] = Grader(label, asked, function)
        return GRADERS[label]

    return mark


def graders(chapter: int) -> dict[str, Grader]:
    """Return the graders of a ``chapter`` by label, none if it has no exercises."""
    name = f"sdelib.exercises.ch{chapter:02d}"
    try:
        importlib.import_module(name)
    except ModuleNotFoundError as error:
        if error.name != name:
            raise
        return {}
    return {label: one for label, one in GRADERS.items() if label.startswith(f"ex-{chapter}-")}


def near(
    name: str,
    got: Any,
    truth: Any,
    *,
    rtol: float = 0.0,
    atol: float = 0.0,
    traps: Mapping[float, str] | Iterable[tuple[Any, str]] = (),
) -> None:
    """Accept ``|got - truth| <= atol + rtol |truth|``, entry by entry, and else say what ``got`` looks like.

    The message names ``got`` and whether it is too large or too small. If it equals one of the ``traps``, their words
    follow; else, if it is the truth turned round, doubled, halved, squared, rooted or inverted, that is said.

    Args:
        name: what was computed, as the reader would write it: ``"stationary_variance(0.1, 1.0)"``.
        got: the reader's number, tensor or array.
        truth: what it should be. A single number may come in any shape; else the shapes must be equal.
        rtol, atol: relative and absolute tolerance.
        traps: values of likely mistakes, and why somebody arrives at them: a mapping, or pairs where values are arrays.

    Raises:
        Wrong: if ``got`` is no number, of another shape, not finite, or too far off.
    """
    if _blank(got) or isinstance(got, _Blank):
        raise Untouched(got.name if isinstance(got, _Blank) else name)
    want, have = _numbers(name, truth), _numbers(name, got)
    if want.size == 1 and have.size == 1:
        want, have = want.reshape(()), have.reshape(())
    if want.shape != have.shape:
        kind = f"shape {have.shape}" if have.shape else "a single number"
        raise Wrong(f"{name} has {kind} where {want.shape or 'a single number'} is wanted.")
    if np.isnan(have).any():
        raise Wrong(
            f"{name} is not a number (nan): is something divided by zero, or a root or logarithm of less than 0?"
        )

    size = np.abs(want).max()
    share = min(0.1, max(1e-9, rtol + (atol / size if size else 0.0)))  # a mistake may be much larger than the truth

    def alike(other: Any) -> bool:
        return bool(np.all(np.abs(have - other) <= np.maximum(atol, share * np.abs(other))))

    miss = np.abs(have - want) - (atol + rtol * np.abs(want))
    if (miss <= 0).all():
        return
    at = np.unravel_index(int(np.argmax(miss)), miss.shape)
    place = f" at [{', '.join(map(str, at))}]" if at else ""
    off = "too large" if have[at] > want[at] else "too small"
    said = f"{name} is {have[at]:.6g}{place}, {off}"
    if have.size > 1:
        said += f" ({int((miss <= 0).sum())} of {have.size} entries are right)"
    for value, why in traps.items() if isinstance(traps, Mapping) else traps:
        if alike(_numbers(name, value)):
            raise Wrong(f"{said}: {why.rstrip('.')}.")
    with np.errstate(all="ignore"):
        looks = (
            (-want, "it has the right size and the wrong sign"),
            (2 * want, "it is twice what it should be"),
            (want / 2, "it is half of what it should be"),
            (want**2, "it looks like the square of what is wanted"),
            (np.sqrt(want), "it looks like the square root of what is wanted"),
            (1 / want, "it looks like one over what is wanted"),
        )
        for value, why in looks:
            if np.isfinite(value).all() and alike(value):
                raise Wrong(f"{said}: {why}.")
    raise Wrong(f"{said}.")


# ---------------------------------------------------------------- the answer's side
def _blank(answer: Any) -> bool:
    """Whether nothing has been filled in yet, or not everything."""
    if isinstance(answer, tuple | list):
        return any(_blank(part) for part in answer)
    return answer is None or answer is ... or answer is NotImplemented


class _Blank:
    """An answer not given yet, which a grader notices where it first uses it."""

    def __init__(self, name: str) -> None:
        self.name = name

    def _stop(self, *_: Any, **__: Any) -> Any:
        raise Untouched(self.name)

    __call__ = __float__ = __int__ = __bool__ = __len__ = __iter__ = __getitem__ = __array__ = __getattr__ = _stop
    __lt__ = __le__ = __gt__ = __ge__ = __eq__ = __ne__ = __abs__ = __neg__ = __hash__ = _stop
    __add__ = __radd__ = __sub__ = __rsub__ = __mul__ = __rmul__ = __truediv__ = __rtruediv__ = __pow__ = _stop


def _guarded(name: str, answer: Any) -> Any:
    if _blank(answer):
        return _Blank(name)
    if not isinstance(answer, FunctionType | BuiltinFunctionType | MethodType | partial):
        return answer

    @wraps(answer)
    def call(*args: Any, **kwargs: Any) -> Any:
        try:
            result = answer(*args, **kwargs)
        except NotImplementedError:
            raise Untouched(name) from None
        except (Untouched, Wrong):
            raise  # from a guarded answer that this one was given
        except Exception as error:
            raise Wrong(f"{name} raised {type(error).__name__}: {error}{_line(answer, error)}.") from error
        if _blank(result):
            raise Untouched(name)
        return result

    return call


def _line(answer: Any, error: Exception) -> str:
    """Name the last line of the answer's own file that the error passed through."""
    code = getattr(answer, "__code__", None)
    frames = [f for f in traceback.extract_tb(error.__traceback__) if code and f.filename == code.co_filename]
    return f", in the line `{frames[-1].line}`" if frames and frames[-1].line else ""


def _numbers(name: str, x: Any) -> np.ndarray:
    if hasattr(x, "detach"):
        x = x.detach().cpu()
    try:
        return np.asarray(x, dtype=float)
    except (TypeError, ValueError, RuntimeError):
        shown = x if isinstance(x, str | bool | complex) else type(x).__name__
        raise Wrong(f"{name} is {shown!r} where a number, or a tensor of numbers, is wanted.") from None


def _own_randomness() -> AbstractContextManager[Any]:
    """Leave the reader's global random numbers as they were."""
    torch = sys.modules.get("torch")
    return nullcontext() if torch is None else torch.random.fork_rng(devices=[])


def _find(label: str) -> Grader:
    found = LABEL.fullmatch(label) if isinstance(label, str) else None
    if not found:
        raise ValueError(f"label must look like 'ex-1-bias', got {label!r}")
    known = graders(int(found[1]))
    if label not in known:
        raise ValueError(f"no exercise {label!r}; chapter {found[1]} has {', '.join(known) or 'none'}")
    return known[label]
