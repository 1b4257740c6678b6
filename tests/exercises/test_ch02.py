"""Plausible wrong answers to chapter 2's exercises, and a phrase of what the check must say to each."""

import math

import numpy as np
import torch

from sdelib import data
from sdelib.exercises.ch02 import FLOOR
from sdelib.exercises.ch02 import _solved as solved

prior = torch.linspace(-40, 40, 8001, dtype=torch.float64)
votes = lambda y: -prior.abs() - (y[:, None] - prior) ** 2 / 2
guess = lambda y: torch.softmax(votes(y), 1) @ prior
mode = lambda y: prior[votes(y).argmax(1)]

levels = lambda D: math.ceil(math.log(5000) / math.log(solved(D))) + 1

EXPLICIT = 1.4311
denoising = lambda y, z, sigma: sigma * (y**2).sum() / (y * z).sum()
sliced = lambda y, p: ((y * p).sum(1) ** 2).sum() / (p**2).sum()
reduced = lambda y, p: (y**2).sum() / (p**2).sum()

floor, sigmas = np.array(FLOOR), np.geomspace(0.1, 10, 20)
small = [0.02] * 20

WRONG = {
    "ex-2-tweedie": [
        ((lambda y: y - 1, guess), "far out"),
        ((mode, guess), "most probable x, not the mean"),
        ((lambda y: y / 2, guess), "a normal prior's answer"),
        ((guess, lambda y: 2 * y - guess(y)), "added, not subtracted"),
        ((guess, lambda y: guess(y) - y), "that is the score"),
        ((lambda y: guess(y)[:, None], guess), "shape (9, 1)"),
    ],
    "ex-2-ladder": [
        ((lambda D: solved(D, stretch=0.5), levels), "root is of 2D"),
        ((lambda D: 1.0, levels), "lower end"),
        ((lambda D: 100.0, levels), "upper end"),
        ((solved, lambda D: levels(D) - 1), "both ends count"),
        ((solved, lambda D: math.log(5000) / math.log(solved(D)) + 1), "a level is whole"),
        ((lambda D: solved(D, share=0.9), levels), "too small"),
    ],
    "ex-2-sliced": [
        ((EXPLICIT - 0.25, denoising, sliced, reduced), "clean law"),
        ((2 * EXPLICIT, denoising, sliced, reduced), "divide by D"),
        ((EXPLICIT + 0.25, denoising, sliced, reduced), "not σ"),
        ((EXPLICIT, lambda y, z, sigma: denoising(y, z, sigma) / sigma, sliced, reduced), "σ is missing"),
        ((EXPLICIT, lambda y, z, sigma: 1 / denoising(y, z, sigma), sliced, reduced), "one over"),
        ((EXPLICIT, denoising, reduced, reduced), "that is the reduced loss"),
        ((EXPLICIT, denoising, lambda y, p: ((y * p) ** 2).sum() / (p**2).sum(), reduced), "sum first, then square"),
        ((EXPLICIT, denoising, sliced, sliced), "plain sliced loss"),
    ],
    "ex-2-effort": [
        ((floor[::-1], small), "from the largest noise"),
        ((floor / sigmas**2, small), "lacks the weight"),
        ((floor / 2, small), "mean over the two coordinates"),
        ((floor, floor), "subtract the floor"),
        ((floor, [-0.05] * 20), "below the floor"),
        ((floor, [0.0] * 20), "exact score twice"),
        ((floor, [0.02] * 19), "too small"),
    ],
}


def test_the_floors_table_approaches_its_closed_form():
    law = data.gm2()
    outer = law.means[:, :, None] * law.means[:, None, :]
    c = torch.linalg.eigvalsh((law.weights[:, None, None] * (law.covs + outer)).sum(0))
    wide = [(c / (c + s**2)).sum().item() for s in sigmas[-3:]]
    np.testing.assert_allclose(
        FLOOR[-3:], wide, rtol=0.02
    )  # standard errors of 0.5 %, and the laws differ by less than 1 %
    assert abs(c.sum().item() / 2 + 0.25 - EXPLICIT) < 1e-3
