"""Losses at the door: whose randomness they use, which shapes and dtypes they take, and what they refuse."""

import pytest
import torch

from sdelib import VE, VP, ddpm, dsm, explicit, finite_difference, geometric_sigmas, linear_betas, sliced, smld


@pytest.mark.usefixtures("untouched")
def test_randomness_is_the_generators(generator):
    x0, score = torch.ones(5, 2), lambda x, t: -x
    seed = lambda: torch.Generator().manual_seed(3)
    for options in ({}, {"weight": "likelihood", "sampling": "importance"}):
        assert torch.equal(
            dsm(VP(), score, x0, generator=seed(), **options), dsm(VP(), score, x0, generator=seed(), **options)
        )
    g = seed()
    t = VP().sample_time(5, t_min=1e-5, generator=g)
    by_hand = dsm(VP(), score, x0, t=t, noise=torch.randn(5, 2, generator=g))  # times first, then noise
    assert torch.equal(dsm(VP(), score, x0, generator=seed()), by_hand)
    for loss in (sliced, lambda *a, **k: finite_difference(*a, h=0.1, **k)):
        t = torch.zeros(5)
        assert torch.equal(
            loss(score, x0, t, generator=seed()), loss(score, x0, t, probe=torch.randn(5, 2, generator=seed()))
        )


@pytest.mark.parametrize("noising", [VE(), ddpm(linear_betas(100))], ids=repr)
def test_points_and_images_take_the_same_path(noising):
    x0, score = torch.randn(6, 8), lambda x, t: -x / (1 + t.reshape(-1, *[1] * (x.ndim - 1)))
    seed = lambda: torch.Generator().manual_seed(3)
    t = torch.full((6,), 0.5)
    pairs = [
        lambda x: dsm(noising, score, x, generator=seed()),
        lambda x: explicit(score, x, t),
        lambda x: sliced(score, x, t, generator=seed()),
        lambda x: finite_difference(score, x, t, h=0.1, generator=seed()),
    ]
    for loss in pairs:
        torch.testing.assert_close(loss(x0.reshape(6, 2, 2, 2)), loss(x0), rtol=1e-6, atol=1e-6)


def test_half_precision_data_get_float32_times():
    """bfloat16 has 128 times between 1/2 and 1: training would see a hundredth of the levels."""
    seen = []
    score = lambda x, t: (seen.append((x.dtype, t)), -x)[1]
    loss = dsm(VP(), score, torch.ones(2000, 2, dtype=torch.bfloat16), generator=torch.Generator().manual_seed(0))
    dsm(VP(), score, torch.ones(3, 2), t=torch.full((3,), 0.5, dtype=torch.float64))
    assert loss.dtype == seen[0][0] == torch.bfloat16
    assert seen[0][1].dtype == seen[1][1].dtype == torch.float32
    assert len(seen[0][1].unique()) > 1990


x0, half = torch.ones(4, 2), torch.full((4,), 0.5)
bad_dsm = [
    ({"weight": "uniform"}, ValueError, r"weight: needs one of 'variance', 'likelihood', got 'uniform'"),
    ({"weight": 1.0}, TypeError, r"weight: needs one of .* or a function of t, got 1.0"),
    ({"weight": lambda t: t[:, None]}, ValueError, r"weight: needs one number a time, shape \(4,\), got \(4, 1\)"),
    ({"sampling": "random"}, ValueError, "sampling: needs one of 'uniform', 'importance', got 'random'"),
    ({"sampling": "importance"}, ValueError, "sampling: 'importance' is for weight='likelihood' only"),
    ({"sampling": "importance", "weight": "likelihood", "t": half}, ValueError, "draws its own times"),
    (
        {"sampling": "importance", "weight": "likelihood", "t_min": 0.0},
        ValueError,
        "t_min: importance sampling needs 0 < t_min",
    ),
    ({"t": 1.2 * torch.ones(4)}, ValueError, r"t: needs times in \[0, 1\], got values from 1.2"),
    ({"t": -half}, ValueError, r"t: needs times in \[0, 1\], got values from -0.5"),
    ({"t": half * torch.nan}, ValueError, r"t: needs times in \[0, 1\], got values from nan"),
    ({"t": torch.ones(4, dtype=torch.long)}, TypeError, "t: needs a floating-point tensor of times, got torch.int64"),
    ({"t": torch.full((3,), 0.5)}, ValueError, r"t: needs one time an item, shape \(4,\), got \(3,\)"),
    ({"t": 0.5}, TypeError, "t: needs a floating-point tensor of times, got float"),
    (
        {"t": 0 * half, "weight": "likelihood"},
        ValueError,
        r"t: needs times with std\(t\) above 0 for this weight, got 0",
    ),
    ({"noise": torch.ones(4)}, ValueError, r"noise: needs the shape of x0, \(4, 2\), got \(4,\)"),
    ({"t_min": 1.0}, ValueError, "t_min: needs 0 <= t_min < T = 1, got 1.0"),
    ({"t_min": -0.1}, ValueError, "t_min: needs 0 <= t_min < T"),
    ({"score": lambda x, t: x[:, :1]}, ValueError, r"score: needs the shape of x0, \(4, 2\), got \(4, 1\)"),
    ({"x0": x0.long()}, TypeError, r"x0: needs floating-point data, got torch.int64; convert it first"),
    (
        {"x0": x0 / torch.tensor([[0.0], [1], [1], [1]])},
        ValueError,
        "x0: needs finite values, got NaN or infinity in 1 of 4",
    ),
    ({"x0": [[1.0, 2.0]]}, TypeError, "x0: needs a torch.Tensor"),
    (
        {"noising": smld(geometric_sigmas(5)), "weight": "likelihood"},
        ValueError,
        r"weight: 'likelihood' is g\(t\)\^2, which a chain",
    ),
]


@pytest.mark.parametrize("change, error, message", bad_dsm, ids=[m[:40] for _, _, m in bad_dsm])
def test_dsm_refuses_bad_input(change, error, message):
    arguments = {"noising": VP(), "score": lambda x, t: -x, "x0": x0} | change
    with pytest.raises(error, match=message):
        dsm(arguments.pop("noising"), arguments.pop("score"), arguments.pop("x0"), **arguments)


@pytest.mark.parametrize("loss", [explicit, sliced, lambda *a, **k: finite_difference(*a, h=0.1, **k)])
def test_the_others_refuse_bad_input(loss):
    score = lambda x, t: -x
    with pytest.raises(TypeError, match="x: needs floating-point data"):
        loss(score, x0.long(), half)
    with pytest.raises(ValueError, match="x: needs finite values"):
        loss(score, x0 * torch.nan, half)
    with pytest.raises(ValueError, match=r"t: needs one time an item, shape \(4,\), got \(\)"):
        loss(score, x0, torch.tensor(0.5))
    if loss is not explicit:
        with pytest.raises(ValueError, match=r"probe: needs the shape of x, \(4, 2\), got \(2,\)"):
            loss(score, x0, half, probe=torch.ones(2))


def test_finite_difference_needs_a_length():
    with pytest.raises(ValueError, match=r"h: needs a finite number above 0, got 0\.0"):
        finite_difference(lambda x, t: x, x0, half, h=0.0)
