"""Toys against closed forms, quadrature and counting; digits against what their makers say of them."""

import math
from collections import Counter
from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from sdelib import VP, data

SEED = 7


def gen(seed=SEED):
    return torch.Generator().manual_seed(seed)


def grid_sum(law, lim, n):
    """Integral of a density over the square by midpoints, and the first two moments under it."""
    side = (torch.arange(n, dtype=torch.float64) + 0.5) * (2 * lim / n) - lim
    points = torch.cartesian_prod(side, side)
    mass = law.log_prob(points).exp() * (2 * lim / n) ** 2
    mean = (mass[:, None] * points).sum(0)
    return float(mass.sum()), mean, torch.einsum("n,ni,nj->ij", mass, points - mean, points - mean)


# --- laws -------------------------------------------------------------------------------------------------------


def test_g1_is_the_books_law():
    law = data.g1()
    x = torch.linspace(-2, 3, 11, dtype=torch.float64)[:, None]
    by_hand = -((x[:, 0] - 0.5) ** 2) / (2 * 0.25) - 0.5 * math.log(2 * math.pi * 0.25)
    torch.testing.assert_close(law.log_prob(x), by_hand, rtol=0, atol=1e-12)


def test_the_prior_gap_of_g1_under_vp_is_the_plans_number():
    """KL(p_1 || N(0, 1)) = 5.398e-6, from mean 0.5 scale and variance 0.25 scale^2 + std^2."""
    p1 = data.g1().at(VP(), 1.0)
    m, v = float(p1.mean), float(p1.cov)
    assert 0.5 * (v - 1 - math.log(v) + m * m) == pytest.approx(5.398e-6, abs=1e-9)


def test_gm1_has_the_weights_and_the_distance():
    law = data.gm1(3.0, std=0.5)
    x = torch.tensor([[-1.5], [1.5]], dtype=torch.float64)
    # at each mode the other component is 6 standard deviations away: exp(-18) of its height
    heights = law.log_prob(x).exp() * math.sqrt(2 * math.pi) * 0.5
    torch.testing.assert_close(heights, torch.tensor([0.8, 0.2], dtype=torch.float64), rtol=1e-7, atol=0)
    share = (law.sample(40_000, generator=gen()) > 0).double().mean()
    assert float(share) == pytest.approx(0.2, abs=4 * math.sqrt(0.16 / 40_000))  # four standard errors


def test_gm2_is_centred_and_of_unit_scale():
    law = data.gm2()
    w, m = law.weights, law.means
    torch.testing.assert_close((w[:, None] * m).sum(0), torch.zeros(2, dtype=torch.float64), rtol=0, atol=1e-15)
    total = torch.einsum("k,kij->ij", w, law.covs + m[:, :, None] * m[:, None, :])
    assert ((total.diagonal() > 0.8) & (total.diagonal() < 1.5)).all()
    x = law.sample(40_000, generator=gen(), dtype=torch.float64)
    # The fourth moment bounds the error of a sample covariance: four of its standard errors.
    torch.testing.assert_close(x.T.cov(), total, rtol=0, atol=4 * float((x**2).std() / 200))
    long, short = torch.linalg.eigvalsh(law.covs[0]).flip(0).sqrt()
    assert (float(long), float(short)) == (pytest.approx(0.60, abs=1e-12), pytest.approx(0.25, abs=1e-12))
    assert len({tuple(cov.reshape(-1).tolist()) for cov in law.covs}) == 3


# --- toys -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["pinwheel", "two_moons", "spiral"])
def test_a_smooth_toys_density_integrates_to_one_and_has_its_samples_moments(name):
    toy = data.TOYS[name]
    # Midpoints on a density as smooth as a Gaussian converge faster than any power of the spacing (0.04, a third of
    # the narrowest width); what is left is the mass beyond |x| = 4.5.
    mass, mean, cov = grid_sum(toy, 4.5, 240)
    assert mass == pytest.approx(1.0, abs=2e-6)
    x = toy(40_000, generator=gen(), dtype=torch.float64)
    torch.testing.assert_close(x.mean(0), mean, rtol=0, atol=4 * float(x.std() / 200))
    torch.testing.assert_close(x.T.cov(), cov, rtol=0, atol=4 * float((x**2).std() / 200))


@pytest.mark.parametrize("name", ["pinwheel", "two_moons", "spiral", "checkerboard"])
def test_sample_counts_agree_with_the_density_cell_by_cell(name):
    """Chi-squared over cells of side 1/2: mean = cells, standard deviation sqrt(2 cells); five of them allowed."""
    toy, n, fine = data.TOYS[name], 40_000, 16
    side = (torch.arange(12 * fine, dtype=torch.float64) + 0.5) / (2 * fine) - 3.0
    mass = toy.log_prob(torch.cartesian_prod(side, side)).exp() / (2 * fine) ** 2
    expected = n * mass.reshape(12, fine, 12, fine).sum((1, 3))
    x = toy(n, generator=gen(), dtype=torch.float64)
    counts = torch.from_numpy(np.histogram2d(*x.T.numpy(), bins=12, range=[[-3, 3], [-3, 3]])[0])
    busy = expected > 5
    chi2 = float(((counts - expected)[busy] ** 2 / expected[busy]).sum())
    cells = int(busy.sum())
    assert chi2 < cells + 5 * math.sqrt(2 * cells)
    assert float(counts[~busy].sum()) <= float(expected[~busy].sum()) + 5 * math.sqrt(float(expected[~busy].sum()) + 1)


def test_checkerboard_is_uniform_on_exactly_the_even_squares():
    x = data.checkerboard(8_000, generator=gen(), dtype=torch.float64)
    squares = Counter(map(tuple, torch.floor(x).long().tolist()))
    assert set(squares) == {(c, r) for c in range(-2, 2) for r in range(-2, 2) if (c + r) % 2 == 0}
    assert torch.all(data.checkerboard.log_prob(x) == -math.log(8))
    outside = torch.tensor([[-1.5, -0.5], [2.0, 0.5], [-2.1, -1.5], [0.5, 5.5], [0.5, -3.5]])
    assert torch.all(data.checkerboard.log_prob(outside) == -math.inf)
    inside = x - torch.floor(x)
    for k, moment in ((1, 1 / 2), (2, 1 / 3), (3, 1 / 4)):  # of a uniform number; 16,000 of them, four standard errors
        assert float((inside**k).mean()) == pytest.approx(moment, abs=4 * 0.3 / math.sqrt(16_000))


def test_turning_a_pinwheel_keeps_areas():
    x = 2 * torch.randn(50, 2, generator=gen(), dtype=torch.float64)
    jacobian = torch.func.vmap(torch.func.jacrev(lambda p: data._turned(p[None], 0.9)[0]))(x)
    torch.testing.assert_close(torch.linalg.det(jacobian), torch.ones(50, dtype=torch.float64), rtol=0, atol=1e-12)
    torch.testing.assert_close(data._turned(data._turned(x, 0.9), -0.9), x, rtol=0, atol=1e-13)


@pytest.mark.parametrize("noise", [0.14, 0.02])
@pytest.mark.parametrize("name", ["two_moons", "spiral"])
def test_quadrature_has_converged_to_the_stated_error(name, noise, monkeypatch):
    toy = replace(data.TOYS[name], noise=noise)
    angle = 2 * math.pi * torch.rand(400, 1, generator=gen(), dtype=torch.float64)
    direction = torch.cat([angle.cos(), angle.sin()], 1)
    x = torch.cat([toy._curve_points(400, gen()) + d * noise * direction for d in (0, 1, 3, 10)])
    before = toy.log_prob(x)
    monkeypatch.setattr(type(toy), "_pieces_per_length", 2.0)
    # measured: 1.4e-11 at most, ten noises away; 9e-13 of rounding at noise 0.02, where squares are multiplied by 1250
    torch.testing.assert_close(before, toy.log_prob(x), rtol=0, atol=1e-9)


def test_a_moons_density_along_its_curve_is_the_plain_average():
    """Against an independent sum: 20,000 points of each half circle in turn, each with its Gaussian."""
    angle = (torch.arange(20_000, dtype=torch.float64) + 0.5) * (math.pi / 20_000)
    upper = 1.4 * torch.stack([torch.cos(angle) - 0.5, torch.sin(angle) - 0.25], 1)
    lower = 1.4 * torch.stack([0.5 - torch.cos(angle), 0.25 - torch.sin(angle)], 1)
    x = torch.tensor([[0.0, 0.0], [-2.1, -0.3], [0.7, -1.0]], dtype=torch.float64)
    total = sum(
        torch.exp(-(torch.cdist(x, c) ** 2) / (2 * 0.14**2)).mean(1) / (2 * math.pi * 0.14**2) for c in (upper, lower)
    )
    torch.testing.assert_close(data.two_moons.log_prob(x).exp(), total / 2, rtol=1e-6, atol=1e-12)


@pytest.mark.usefixtures("untouched")
@given(name=st.sampled_from(sorted(data.TOYS)), n=st.integers(1, 40), seed=st.integers(0, 2**40))
def test_same_generator_same_points_in_every_dtype(name, n, seed):
    toy = data.TOYS[name]
    double = toy(n, generator=gen(seed), dtype=torch.float64)
    assert torch.equal(double, toy.sample(n, generator=gen(seed), dtype=torch.float64))
    assert torch.equal(double.float(), toy(n, generator=gen(seed), dtype=torch.float32))
    assert double.shape == (n, 2)
    assert torch.isfinite(toy.log_prob(double)).all()


@pytest.mark.parametrize("n", [0, -3, 2.0, True])
def test_a_wrong_count_is_refused(n):
    with pytest.raises(ValueError, match="n: needs a whole number"):
        data.two_moons(n)


def test_other_bad_input_is_refused():
    with pytest.raises(TypeError, match="dtype: needs a floating-point"):
        data.spiral(3, dtype=torch.int64)
    with pytest.raises(ValueError, match=r"x: needs points of shape \(batch, 2\), got \(3, 1\)"):
        data.spiral.log_prob(torch.zeros(3, 1))
    with pytest.raises(ValueError, match="distance: needs"):
        data.gm1(0.0)
    with pytest.raises(TypeError, match="generator"):
        data.spiral(3, generator=7)


# --- digits -----------------------------------------------------------------------------------------------------


def test_digits_are_the_documented_set():
    from sklearn.datasets import load_digits

    images, labels = data.digits()
    assert images.shape == (1797, 1, 8, 8)
    assert images.dtype == torch.float32
    levels = images * 16
    assert torch.equal(levels, levels.round())
    assert torch.equal(levels.unique(), torch.arange(17.0))
    assert np.array_equal(levels[:, 0].numpy(), load_digits().images)
    assert np.array_equal(labels.numpy(), load_digits().target)


def test_digits_split_once_and_for_all():
    everything, train, test = (data.digits(split=s) for s in ("all", "train", "test"))
    assert (len(train.labels), len(test.labels)) == (1497, 300)
    rows = Counter(map(bytes, everything.images.numpy()))
    assert rows == Counter(map(bytes, train.images.numpy())) + Counter(map(bytes, test.images.numpy()))
    assert torch.equal(test.images[1], everything.images[6])
    assert torch.equal(train.labels[:6], everything.labels[[1, 2, 3, 4, 5, 7]])
    # every class is in the test split about as often as in the whole
    share = torch.bincount(test.labels) / 300 - torch.bincount(everything.labels) / 1797
    assert float(share.abs().max()) < 0.03


def test_digits_in_another_range_and_size():
    plain, other = data.digits(split="test").images, data.digits(split="test", data_range=(-1, 1)).images
    torch.testing.assert_close(other, 2 * plain - 1, rtol=0, atol=0)
    large = data.digits(split="test", size=32).images
    assert large.shape == (300, 1, 32, 32)
    assert torch.equal(large[:, :, ::4, ::4], plain)
    assert torch.equal(torch.nn.functional.avg_pool2d(large, 4), plain)


@pytest.mark.parametrize("arguments, message", [
    ({"split": "valid"}, "split: needs one of 'all', 'train', 'test', got 'valid'"),
    ({"size": 12}, "size: needs 8, 16 or 32, got 12"),
    ({"data_range": (1.0, 0.0)}, "data_range: needs .* low < high"),
])  # fmt: skip
def test_digits_refuse(arguments, message):
    with pytest.raises(ValueError, match=message):
        data.digits(**arguments)


# --- batches ----------------------------------------------------------------------------------------------------


@pytest.mark.usefixtures("untouched")
@given(n=st.integers(1, 12), size=st.integers(1, 30), seed=st.integers(0, 1000))
def test_every_item_comes_once_a_round(n, size, seed):
    loader = data.batches(torch.arange(float(n)), size, generator=gen(seed))
    rounds = 4 * size
    seen = torch.cat([next(loader) for _ in range(rounds // size * n)])  # a whole number of rounds: 4 size of n items
    assert len(seen) == 4 * n * size
    for one in seen.reshape(-1, n):
        assert sorted(one.tolist()) == list(range(n))


def test_labels_stay_with_their_images_and_seeds_repeat():
    digits = data.digits(split="test")
    loader, again = (data.batches(digits, 64, generator=gen()) for _ in range(2))
    for _ in range(12):
        (images, labels), (images_again, labels_again) = next(loader), next(again)
        assert torch.equal(images, images_again)
        assert torch.equal(labels, labels_again)
        for image, label in zip(images[:5], labels[:5], strict=True):
            where = (digits.images == image).reshape(300, -1).all(1)
            assert label in digits.labels[where]


def test_samplers_give_fresh_draws():
    by_law, by_function = (
        data.batches(data.gm2(), 16, generator=gen()),
        data.batches(data.gm2().sample, 16, generator=gen()),
    )
    first, second = next(by_law), next(by_law)
    assert not torch.equal(first, second)
    assert torch.equal(first, next(by_function))
    assert torch.equal(second, next(by_function))
    assert next(data.batches(data.spiral, 5)).shape == (5, 2)


def test_batches_refuse_at_once():
    for bad, error, message in (
        (torch.zeros(0, 2), ValueError, "data: needs tensors of one length"),
        ((torch.zeros(3), torch.zeros(4)), ValueError, r"lengths \[3, 4\]"),
        (([1, 2],), TypeError, "data: needs a tuple of tensors"),
        ("gm2", TypeError, "data: needs tensors, a law"),
    ):
        with pytest.raises(error, match=message):
            data.batches(bad, 4)
    with pytest.raises(ValueError, match="batch_size: needs"):
        data.batches(torch.zeros(3), 0)
