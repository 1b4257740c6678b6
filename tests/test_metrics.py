"""The energy distance against closed forms and SciPy."""

import math

import numpy as np
import pytest
import scipy.stats
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from sdelib.metrics import energy_distance


def normal(n, mean=0.0, std=1.0, *, seed, dim=1):
    return mean + std * torch.randn((n, dim), generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def mean_abs(m, s):
    """E|z| of z ~ N(m, s^2): the folded normal law's mean."""
    return s * math.sqrt(2 / math.pi) * math.exp(-(m**2) / (2 * s**2)) + m * math.erf(m / (s * math.sqrt(2)))


def test_two_normal_laws_have_the_closed_form():
    truth = 2 * mean_abs(1.0, math.sqrt(5)) - mean_abs(0.0, math.sqrt(2)) - mean_abs(0.0, math.sqrt(8))
    found = [float(energy_distance(normal(1000, seed=i), normal(1000, 1.0, 2.0, seed=100 + i))) for i in range(40)]
    error = np.std(found) / math.sqrt(len(found))
    assert abs(np.mean(found) - truth) < 4 * error  # four standard errors of forty estimates
    assert error < 0.02 * truth  # ... which decide something


def test_without_bias_between_samples_of_one_law():
    found = [float(energy_distance(normal(50, seed=i, dim=3), normal(50, seed=1000 + i, dim=3))) for i in range(300)]
    error = np.std(found) / math.sqrt(len(found))
    assert abs(np.mean(found)) < 4 * error
    assert min(found) < 0 < max(found)
    # the biased form, which counts each sample's distance to itself, would be off by about 2 E|x - x'| / 50
    assert 4 * error < 0.5 * 2 * 2 * 2 / math.sqrt(math.pi) / 50


def test_agrees_with_scipy_after_its_two_conventions():
    # SciPy gives the square root and counts each sample against itself: (n - 1)/n of our two own terms
    x, y = normal(300, seed=1), normal(200, 0.7, 1.5, seed=2)
    n, m = len(x), len(y)
    within = [float(torch.cdist(a, a).sum() / len(a) / (len(a) - 1)) for a in (x, y)]
    theirs = scipy.stats.energy_distance(x[:, 0].numpy(), y[:, 0].numpy()) ** 2
    ours = float(energy_distance(x, y)) + within[0] / n + within[1] / m
    assert ours == pytest.approx(theirs, rel=1e-10)


def test_long_samples_are_taken_in_parts(monkeypatch):
    x, y = normal(500, seed=3, dim=2), normal(400, seed=4, dim=2)
    whole = energy_distance(x, y)
    monkeypatch.setattr("sdelib.metrics.ROWS", 64)
    assert float(energy_distance(x, y)) == pytest.approx(float(whole), abs=1e-12)


@settings(max_examples=25, deadline=None)
@given(st.integers(2, 30), st.integers(2, 30), st.floats(-5, 5), st.floats(0.1, 10), st.integers(1, 3))
def test_symmetric_and_moves_with_unit_and_origin(n, m, shift, factor, dim):
    x, y = normal(n, seed=n, dim=dim), normal(m, 0.5, seed=m + 100, dim=dim)
    there = float(energy_distance(x, y))
    assert float(energy_distance(y, x)) == pytest.approx(there, abs=1e-12)
    assert float(energy_distance(factor * x + shift, factor * y + shift)) == pytest.approx(factor * there, abs=1e-10)


def test_images_are_compared_as_vectors():
    x, y = normal(20, seed=5, dim=12), normal(20, seed=6, dim=12)
    assert energy_distance(x.reshape(20, 3, 2, 2), y.reshape(20, 3, 2, 2)) == energy_distance(x, y)


@pytest.mark.parametrize(
    ("x", "y", "error", "words"),
    [
        (torch.zeros(1, 2), torch.zeros(5, 2), ValueError, r"x must hold at least two samples, got shape \(1, 2\)"),
        (torch.zeros(5, 2), torch.zeros(5, 3), ValueError, r"y: items of shape \(3,\) do not compare with x's \(2,\)"),
        (torch.full((4, 1), math.nan), torch.zeros(4, 1), ValueError, "x: needs finite values.*4 of 4"),
        (torch.zeros(4, 1), torch.zeros(4, 1, dtype=torch.long), TypeError, "y: needs floating-point"),
    ],
)
def test_bad_input_is_named(x, y, error, words):
    with pytest.raises(error, match=words):
        energy_distance(x, y)
