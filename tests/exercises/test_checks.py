"""Checks answer: the untouched stub is open, plausible mistakes are told apart, and nothing a reader hands in raises."""

import importlib
import inspect
import re
import time

import pytest
import torch

import sdelib.exercises
from sdelib.exercises import GRADERS, Grader, Untouched, Verdict, Wrong, check, grader, graders, judge, near
from tests.book.conftest import ROOT

CHAPTERS = sorted(int(p.stem[2:]) for p in (ROOT / "sdelib" / "exercises").glob("ch*.py"))
KNOWN = {label: one for chapter in CHAPTERS for label, one in graders(chapter).items()}
WRONG = {chapter: importlib.import_module(f"tests.exercises.test_ch{chapter:02d}").WRONG for chapter in CHAPTERS}
CASES = [
    pytest.param(label, answer, phrase, id=f"{label}-{i}")
    for cases in WRONG.values()
    for label, answers in cases.items()
    for i, (answer, phrase) in enumerate(answers)
]


# ---------------------------------------------------------------- every grader
@pytest.mark.parametrize("chapter", CHAPTERS)
def test_every_grader_is_tested_with_a_wrong_answer(chapter):
    assert set(WRONG[chapter]) == set(graders(chapter))
    assert all(WRONG[chapter].values())


@pytest.mark.parametrize("label, answer, phrase", CASES)
def test_a_plausible_mistake_is_named(label, answer, phrase):
    answers = answer if isinstance(answer, tuple) else (answer,)
    start = time.process_time()
    verdict = judge(label, *answers)
    assert time.process_time() - start < 5, "a check answers at once"  # a guard against a check that trains, no timing
    assert verdict.status == "wrong", verdict.text
    assert phrase in verdict.message
    assert "could not use" not in verdict.message, "the grader stumbled over this answer: let it say what is wrong"


@pytest.mark.parametrize("label", KNOWN)
def test_the_untouched_stub_is_open(label):
    one = KNOWN[label]
    functions = [any(line.startswith(f"{name}(") for line in one.asked) for name in one.parts]
    stub = [(lambda *args, **kwargs: ...) if function else ... for function in functions]
    for answers in (stub, [...] * len(one.parts), [None] * len(one.parts)):
        verdict = judge(label, *answers)
        assert verdict.status == "open", verdict.text
        assert all(line.rstrip(".") in verdict.message for line in one.asked)


@pytest.mark.parametrize("label", KNOWN)
def test_what_is_asked_names_every_part(label):
    one = KNOWN[label]
    for name in one.parts:
        assert any(re.search(rf"\b{name}\b", line) for line in one.asked), f"{label} does not ask for {name}"


@pytest.mark.parametrize("chapter", CHAPTERS)
def test_what_is_said_of_a_right_answer_has_no_measured_digits(chapter):
    # it is stored with the page, which another machine must reproduce letter by letter
    source = inspect.getsource(importlib.import_module(f"sdelib.exercises.ch{chapter:02d}"))
    said = re.findall(r"^    return (.*)$", source, re.MULTILINE)
    assert said
    assert not [line for line in said if re.match(r"f[\"']", line)]


# ---------------------------------------------------------------- the core
@pytest.fixture
def planted(monkeypatch):
    """Two graders of a chapter 98 that no file holds."""
    known = {}

    def square(square):
        for x in (3.0, 2.0):
            near(f"square({x})", square(x), x**2, rtol=1e-9, traps={2 * x: "that is twice x"})
        return "A square it is."

    def pair(slope, vector):
        near("slope", slope, -3.0, atol=0.01)
        near("vector", vector, [1.0, 2.0, 3.0], rtol=1e-3, traps=[([3.0, 2.0, 1.0], "that is the reverse")])
        return ""

    for label, function, asked in (
        ("ex-98-square", square, ("square(x): x times x",)),
        ("ex-98-pair", pair, ("slope: a number", "vector: three numbers")),
    ):
        known[label] = Grader(label, asked, function)
    monkeypatch.setattr(sdelib.exercises, "graders", lambda chapter: known if chapter == 98 else {})


def said(label, *answers) -> tuple[str, str]:
    verdict = judge(label, *answers)
    return verdict.status, verdict.remark


def test_right(planted):
    assert said("ex-98-square", lambda x: x * x) == ("right", "A square it is.")
    assert said("ex-98-square", lambda x: torch.tensor([x * x])) == ("right", "A square it is.")
    assert said("ex-98-pair", torch.tensor(-3.0), torch.tensor([1.0, 2.0, 3.0]))[0] == "right"
    assert said("ex-98-pair", -3, (1, 2, 3))[0] == "right"


def not_implemented(x):
    raise NotImplementedError


@pytest.mark.parametrize("stub", [..., None, lambda x: ..., lambda x: None, lambda x: (x, ...), not_implemented])
def test_open(planted, stub):
    assert said("ex-98-square", stub)[0] == "open"


@pytest.mark.parametrize(
    "square, phrase",
    [
        (lambda x: 2 * x + (x > 2), "square(3.0) is 7, too small."),
        (lambda x: 3 * x, "too large"),
        (lambda x: -x * x, "square(3.0) is -9, too small: it has the right size and the wrong sign."),
        (lambda x: 2 * x * x, "twice what it should be"),
        (lambda x: x * x / 2, "half of what it should be"),
        (lambda x: x**4, "square of what is wanted"),
        (lambda x: x, "square root of what is wanted"),
        (lambda x: x**-2, "one over"),
        (lambda x: float("nan"), "nan"),
        (lambda x: float("inf"), "is inf, too large"),
        (lambda x: "four", "'four' where a number"),
        (lambda x: 1j, "where a number"),
        (lambda x: torch.ones(2), "has shape (2,) where a single number is wanted"),
        (lambda x: x / 0, "square raised ZeroDivisionError: float division by zero"),
        (lambda: 4, "square raised TypeError"),
        (4.0, "square must be a function, got 4.0"),
    ],
)
def test_wrong_says_what_is_wrong(planted, square, phrase):
    status, remark = said("ex-98-square", square)
    assert status == "wrong"
    assert phrase in remark
    assert phrase in judge("ex-98-square", square).text


def test_traps_and_tensors(planted):
    assert said("ex-98-pair", -3, [3, 2, 1]) == (
        "wrong",
        "vector is 3 at [0], too large (1 of 3 entries are right): that is the reverse.",
    )
    assert "at [2], too small (2 of 3 entries are right)" in said("ex-98-pair", -3, [1, 2, 0])[1]
    assert said("ex-98-pair", -3, [1, 2]) == ("wrong", "vector has shape (2,) where (3,) is wanted.")
    assert "a single number where (3,)" in said("ex-98-pair", -3, 1.0)[1]


def test_parts_are_graded_in_order_and_the_missing_one_is_named(planted):
    assert said("ex-98-pair", 3, ...)[0] == "wrong"
    assert said("ex-98-pair", -3, ...) == ("open", "vector is still to be filled in.")
    assert said("ex-98-pair", ..., [1, 2, 3]) == ("open", "")
    page = judge("ex-98-pair", -3, ...).html
    assert (
        "<li><code>slope</code>: a number</li><li><code>vector</code>: three numbers</li></ul>vector is still" in page
    )


def test_what_an_answer_raises_names_its_line(planted):
    def square(x):
        return x @ x

    assert "in the line `return x @ x`" in said("ex-98-square", square)[1]


def test_a_stumbling_grader_is_no_exception_of_the_reader(monkeypatch):
    def odd(thing):
        return thing.nowhere

    monkeypatch.setattr(
        sdelib.exercises, "graders", lambda chapter: {"ex-98-odd": Grader("ex-98-odd", ("thing",), odd)}
    )
    assert "could not use this answer: AttributeError" in said("ex-98-odd", 3)[1]


def test_the_global_random_stream_stays_where_it_was(planted, untouched):
    assert said("ex-98-square", lambda x: x * x + torch.rand(()).item() * 1e-12)[0] == "right"


def test_misuse_is_refused(planted):
    with pytest.raises(ValueError, match=r"no exercise 'ex-98-none'; chapter 98 has ex-98-square, ex-98-pair"):
        check("ex-98-none", 1)
    with pytest.raises(ValueError, match=r"chapter 97 has none"):
        check("ex-97-none", 1)
    for label in ("1-bias", "ex-bias", "ex-0-bias", 3):
        with pytest.raises(ValueError, match="label must look like 'ex-1-bias'"):
            check(label, 1)
    with pytest.raises(TypeError, match=r"takes 2 answers \(slope, vector\), got 1"):
        check("ex-98-pair", 1)
    with pytest.raises(ValueError, match="label must look like"):
        grader("bias", "words")
    with pytest.raises(ValueError, match="asked must be lines"):
        grader("ex-98-x", " ")
    with pytest.raises(ValueError, match=r"belongs in ch98.py"):
        grader("ex-98-x", "x: a number")(lambda x: "")
    assert "ex-98-x" not in GRADERS


def test_outside_a_notebook_one_line_is_printed(planted, capsys):
    assert check("ex-98-square", lambda x: 2 * x) is None
    assert capsys.readouterr().out.startswith(
        "✗ ex-98-square: Not right yet. square(3.0) is 6, too small: that is twice x."
    )


@pytest.mark.parametrize(
    "status, sign, word", [("open", "○", "Not answered"), ("wrong", "✗", "Not right"), ("right", "✓", "Right")]
)
def test_the_box_says_its_status_in_words_and_escapes_what_it_quotes(status, sign, word):
    one = Verdict("ex-98-x", status, ("`f(x)`: where 1 < x",), "`f(2)` is <b>")
    assert sign in one.html and word in one.html and sign in one.text and word in one.text
    assert "<b>" not in one.html.replace('<b class="sdelib-check-word">', "").replace("</b>", "")
    assert "<code>f(" in one.html
    assert one.record() == {"label": "ex-98-x", "status": status}


def test_judgements_are_exceptions_of_their_own():
    with pytest.raises(Wrong, match="x is 2, too large"):
        near("x", 2, 1.5, rtol=0.1)
    with pytest.raises(Untouched):
        near("x", ..., 1.5, rtol=0.1)
