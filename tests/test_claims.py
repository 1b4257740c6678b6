"""A claim holds, or says by how much it does not; it refuses to be vague."""

import json
import math
import re

import numpy as np
import pytest
import torch

from sdelib.claims import Claim, ClaimError, anchor, claim

WHY = {"because": "an example", "source": "arithmetic"}


def made(value, truth=None, **more) -> Claim:
    return Claim("1.3-bias", "a number", value, truth, **{**WHY, **more})


def test_line_names_everything_and_agrees_with_the_record(capsys):
    claim("1.3-bias", "variance at step 0.1", 1.05312345, 1 / 0.95, atol=0.004, **WHY)
    line = "✓ 1.3-bias: variance at step 0.1: measured 1.0531; truth 1.0526 ± 0.004 (an example). Source: arithmetic."
    assert capsys.readouterr().out == line + "\n"
    record = made(1.0531234, 1 / 0.95, atol=0.004)
    assert Claim(**json.loads(json.dumps(record.record()))) == record
    # the page's form says the same words
    assert re.sub(r"<[^>]+>", "", record.html).replace("✓ 1.3-bias a", "✓ 1.3-bias: a") == record.text
    assert f'id="{anchor("1.3-bias")}"' in record.html


def test_false_claim_says_value_truth_and_distance():
    with pytest.raises(
        ClaimError, match=r"claim 1\.3-bias is false: v: measured 1\.2000; truth 1\.0526 ± 0\.004"
    ) as caught:
        claim("1.3-bias", "v", 1.2, 1 / 0.95, atol=0.004, **WHY)
    assert "off by 0.147, 36.8 times the tolerance 0.004" in str(caught.value)
    assert isinstance(caught.value, AssertionError)


@pytest.mark.parametrize(
    "record, holds",
    [
        (made(1.25, 1.0, atol=0.25), True),  # the edge belongs to the interval
        (made(1.2500001, 1.0, atol=0.25), False),
        (made(-2.09, -2.0, rtol=0.05), True),
        (made(-2.2, -2.0, rtol=0.05), False),
        (made(-2.19, -2.0, rtol=0.05, atol=0.1), True),
        (made(1e-12, below=1e-12), True),
        (made(2e-12, below=1e-12), False),
        (made(0.5, above=0.4, below=0.6), True),
        (made(0.3, above=0.4, below=0.6), False),
        (made(7, 7, exact=True), True),
        (made(8, 7, exact=True), False),
        (made(True, True, exact=True), True),
        (made(math.nan, 1.0, atol=1e9), False),
        (made(math.inf, above=0.0), False),
        (made(-math.inf, below=0.0), False),
        (made(math.nan, below=1.0), False),
    ],
)
def test_when_a_claim_holds(record, holds):
    assert record.holds is holds


@pytest.mark.parametrize(
    "record, measured, expected",
    [
        (made(1.05312, 1.0526, atol=0.004), "1.0531", "truth 1.0526 ± 0.004"),
        (made(0.00635281, 0.0063528, rtol=1e-4), "0.00635281", "truth 0.00635280 ± 0.01 %"),
        (made(5.3961e-6, 5.398e-6, rtol=0.01), "5.396e-06", "truth 5.398e-06 ± 1 %"),
        (made(3.21e-13, below=1e-12), "3.21e-13", "must be at most 1e-12"),
        (made(0.0, below=1e-12), "0", "must be at most 1e-12"),
        (made(3.2e-13, 0.0, atol=1e-11), "3e-13", "truth 0 ± 1e-11"),
        (made(1.0526315789, 1 / 0.95, atol=1e-11), "1.0526316", "truth 1.0526316 ± 1e-11"),
        (made(0.503, above=0.4, below=0.6), "0.503", "must lie between 0.4 and 0.6"),
        (made(5000, 5000, exact=True), "5000", "truth 5000, exactly"),
        (made(True, True, exact=True), "yes", "truth yes, exactly"),
        (made(1234.567, 1235.0, atol=20.0), "1235", "truth 1235 ± 20"),
        (made(-0.31, -0.3, atol=0.02, rtol=0.01), "-0.310", "truth -0.300 ± 0.02 ± 1 %"),
    ],
)
def test_numbers_are_shown_to_the_digits_that_mean_something(record, measured, expected):
    assert (record.measured, record.expected) == (measured, expected)


@pytest.mark.parametrize("value", [torch.tensor(0.5), torch.tensor([0.5]), np.float32(0.5), np.array(0.5), 0.5])
def test_anything_with_one_element_is_a_number(value, capsys):
    claim("1.1-half", "a half", value, 0.5, atol=0.01, **WHY)
    assert "measured 0.500;" in capsys.readouterr().out


@pytest.mark.parametrize("value", [torch.zeros(2), np.zeros((2, 2)), "0.5", None, 1j])
def test_anything_else_is_not(value):
    with pytest.raises(TypeError, match="value must be one real number"):
        claim("1.1-half", "a half", value, 0.5, atol=0.01, **WHY)


@pytest.mark.parametrize(
    "changes, message",
    [
        ({"id": "langevin"}, "id must look like '1.3-langevin-bias'"),
        ({"id": "1.3-Bias"}, "got '1.3-Bias'"),
        ({"statement": " "}, "statement must be one line of words"),
        ({"because": ""}, "because must be one line of words that is not empty, got ''"),
        ({"source": "a\nb"}, "source must be one line"),
        ({"atol": 0.0}, "a truth needs atol or rtol > 0, or else exact=True, got atol=0.0"),
        ({"exact": True}, "got atol=0.1, rtol=0.0, exact=True"),
        ({"atol": -1.0}, "atol must be finite and >= 0, got -1.0"),
        ({"rtol": math.inf}, "rtol must be finite"),
        ({"truth": None}, "a bound is its own|needs either a truth or a bound"),
        ({"below": 2.0}, "needs either a truth or a bound"),
        ({"truth": math.nan}, "truth must be finite, got nan"),
        ({"truth": 0.0, "atol": 0.0, "rtol": 0.1}, "rtol=0.1 tolerates nothing around truth 0"),
        ({"truth": None, "atol": 0.0, "below": 1.0, "above": 2.0}, "above must be less than below, got above=2.0"),
        ({"truth": None, "below": 1.0}, "a bound is its own tolerance"),
    ],
)
def test_vague_claims_are_refused(changes, message):
    arguments = {"id": "1.3-bias", "statement": "s", "value": 1.0, "truth": 1.0, "atol": 0.1, **WHY, **changes}
    with pytest.raises(ValueError, match=message):
        Claim(**arguments)


def test_words_are_escaped_on_the_page():
    assert "a &lt; b" in made(1.0, 1.0, atol=0.1, because="a < b").html
