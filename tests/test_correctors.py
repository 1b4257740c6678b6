"""Correctors: step sizes by hand, the law they keep, and what they do where there is nothing to correct."""

import math

import pytest
import torch

from sdelib import (
    VE,
    VP,
    Chain,
    Gaussian,
    SubVP,
    affine_law,
    annealed_langevin,
    ddpm,
    geometric_sigmas,
    langevin,
    linear_betas,
    smld,
)

BETAS = linear_betas(40)


def seeded(seed=7):
    return torch.Generator().manual_seed(seed)


def filled(value, n=5):
    return torch.full((n,), value, dtype=torch.float64)


def _alpha(noising, t, t_next):
    """What multiplies the paper's step (algorithms 4 and 5), by hand."""
    if isinstance(noising, VE) or (isinstance(noising, Chain) and noising.keeps_mean):
        return 1.0
    if isinstance(noising, Chain):
        return float(1 - BETAS[round(t * 40) - 1])
    B = lambda t: noising.beta_min * t + (noising.beta_max - noising.beta_min) * t * t / (2 * noising.T)
    return math.exp(B(t_next) - B(t))


CASES = [
    (VE(), 0.5, 0.45),
    (VP(), 0.5, 0.45),
    (SubVP(), 0.5, 0.45),
    (VP(0.2, 9.0, T=2.0), 1.5, 1.4),
    (smld(geometric_sigmas(40)), 20 / 40, 19 / 40),
    (ddpm(BETAS), 20 / 40, 19 / 40),
    (ddpm(BETAS), 1 / 40, 0.0),
]


@pytest.mark.parametrize("noising, t, t_next", CASES, ids=repr)
@pytest.mark.parametrize("shape", [(3,), (2, 2, 2)])
def test_step_sizes_by_hand(noising, t, t_next, shape):
    """x + e s, then sqrt(2 e) z: e = 2 alpha (r |z|/|s|)^2 with the batch's mean norms or an item's own, or 2 alpha (r std)^2."""
    x = torch.randn(5, *shape, generator=seeded(1), dtype=torch.float64)
    score = lambda x, t: -0.5 * x + 0.3
    z, s, r = torch.randn(5, *shape, generator=seeded(2), dtype=torch.float64), score(x, None), 0.2
    alpha = _alpha(noising, t, t_next)
    z_norms = torch.stack([v.pow(2).sum().sqrt() for v in z])
    s_norms = torch.stack([v.pow(2).sum().sqrt() for v in s])
    std = float(noising.std(filled(t))[0])
    for step, size in (
        (langevin(noising, score, snr=r), 2 * alpha * (r * z_norms.mean() / s_norms.mean()) ** 2 * filled(1.0)),
        (langevin(noising, score, snr=r, norm="sample"), 2 * alpha * (r * z_norms / s_norms) ** 2),
        (annealed_langevin(noising, score, snr=r), 2 * alpha * (r * std) ** 2 * filled(1.0)),
    ):
        e = size.reshape(5, *[1] * len(shape))
        stepped = step(x, filled(t), filled(t_next), seeded(2))
        torch.testing.assert_close(stepped.mean, x + e * s, rtol=1e-12, atol=1e-12)
        torch.testing.assert_close(stepped.x, x + e * s + (2 * e).sqrt() * z, rtol=1e-12, atol=1e-12)
        assert torch.equal(stepped.t, filled(t))


def test_several_steps_are_one_after_another():
    sde, score = VP(), lambda x, t: -x
    x = torch.randn(5, 2, generator=seeded(1), dtype=torch.float64)
    for build in (langevin, annealed_langevin):
        g, by_hand = seeded(), x
        for _ in range(3):
            last = build(sde, score)(by_hand, filled(0.5), filled(0.4), g)
            by_hand = last.x
        three = build(sde, score, n_steps=3)(x, filled(0.5), filled(0.4), seeded())
        assert torch.equal(three.x, by_hand)
        assert torch.equal(three.mean, last.mean)  # only the noise drawn last is left out of the mean


@pytest.mark.parametrize("noising", [VE(), VP(), SubVP(), smld(geometric_sigmas(40)), ddpm(BETAS)], ids=repr)
@pytest.mark.parametrize("build", [langevin, annealed_langevin])
def test_at_time_zero_x_stays(noising, build):
    """Also where the score is undefined there; and an item at time 0 takes nothing from or to its neighbours."""
    score = lambda x, t: torch.where(t[:, None] > 0, -x, torch.nan)
    x = torch.randn(5, 2, generator=seeded(1), dtype=torch.float64)
    g = seeded()
    stepped = build(noising, score)(x, filled(0.0), filled(0.0), g)
    assert stepped.x is x
    assert torch.equal(g.get_state(), seeded().get_state())  # no noise was drawn
    t = torch.tensor([0.5, 0.0, 0.5, 0.5, 0.0], dtype=torch.float64)
    mixed = build(noising, score)(x, t, 0.9 * t, seeded())
    noisy = t > 0
    alone = build(noising, score)(x[noisy], t[noisy], 0.9 * t[noisy], seeded())
    assert torch.equal(mixed.x[~noisy], x[~noisy])
    assert torch.equal(mixed.mean[~noisy], x[~noisy])
    assert torch.equal(mixed.x[noisy], alone.x)
    assert torch.equal(mixed.mean[noisy], alone.mean)


@pytest.mark.parametrize("noising, t, t_next", CASES, ids=repr)
@pytest.mark.parametrize("snr", [0.05, 0.16, 0.5])
def test_annealed_langevins_stationary_variance(noising, t, t_next, snr):
    """On N(0, v) a step e gives variance -> (1 - e/v)^2 variance + 2 e, whose fixed point is v/(1 - e/(2 v)); for data that
    are a point, v = std^2 and the factor is 1/(1 - alpha snr^2)."""
    for s2 in (0.0, 0.7):
        data = Gaussian([0.0, 0.0], s2)
        scale, std = float(noising.scale(filled(t))[0]), float(noising.std(filled(t))[0])
        v = scale**2 * s2 + std**2
        e = 2 * _alpha(noising, t, t_next) * (snr * std) ** 2
        step = annealed_langevin(noising, data.score_fn(noising), snr=snr)
        kept = affine_law(step, Gaussian([0.0, 0.0], v / (1 - e / (2 * v))), [t, t_next])[-1]
        torch.testing.assert_close(
            kept.cov, v / (1 - e / (2 * v)) * torch.eye(2, dtype=torch.float64), rtol=1e-10, atol=0
        )
        # and from elsewhere it contracts towards that point by (1 - e/v)^2 a step
        away = affine_law(step, Gaussian([0.0, 0.0], 2 * v / (1 - e / (2 * v))), [t, t_next])[-1]
        excess = float(away.cov[0, 0]) * (1 - e / (2 * v)) / v - 1
        assert excess == pytest.approx((1 - e / v) ** 2, rel=1e-8, abs=1e-10)


@pytest.mark.parametrize("noising", [VE(), VP(), ddpm(BETAS)], ids=repr)
@pytest.mark.parametrize("build", [langevin, annealed_langevin])
def test_defaults_keep_a_gaussians_variance(noising, build):
    """100 steps at one time on 2-D Gaussian data: within 10 % of the truth (standard error of 8,000 variances: 1.1 %)."""
    law = Gaussian([0.0, 0.0], 0.25)
    now, later = torch.full((4000,), 0.5), torch.full((4000,), 19 / 40)
    truth = float(law.at(noising, 0.5).cov[0, 0])
    x = math.sqrt(truth) * torch.randn(4000, 2, generator=seeded(1))
    x = build(noising, law.score_fn(noising), n_steps=100)(x, now, later, seeded()).x
    assert float(x.var()) / truth == pytest.approx(1.0, abs=0.1)


def test_an_items_own_norms_have_no_law_near_a_mode():
    """Where |s| vanishes the step explodes: an exhibit. In 1-D the variance after 100 steps is off by orders of magnitude."""
    law, sde = Gaussian([0.0], 0.25), VE()
    truth = float(law.at(sde, 0.5).cov)
    x = math.sqrt(truth) * torch.randn(2000, 1, generator=seeded(1))
    now = torch.full((2000,), 0.5)
    x = langevin(sde, law.score_fn(sde), n_steps=100, norm="sample")(x, now, 0.9 * now, seeded()).x
    assert float(x.var()) / truth > 100


def test_one_batch_of_far_points_changes_its_neighbours():
    """The coupling of norm="batch", measured: one point at distance 1,000 in a batch of 10 shortens every other step."""
    sde, score = VE(), lambda x, t: -x
    x = torch.randn(10, 2, generator=seeded(1), dtype=torch.float64)
    far = torch.cat([x[:9], torch.full((1, 2), 1000.0, dtype=torch.float64)])
    near, pulled = (langevin(sde, score)(v, filled(0.5, 10), filled(0.4, 10), seeded()) for v in (x, far))
    ratio = ((pulled.mean - far)[:9] / (near.mean - x)[:9]).mean()
    s_norm = lambda v: v.norm(dim=1).mean()
    assert float(ratio) == pytest.approx(float((s_norm(x) / s_norm(far)) ** 2), rel=1e-9)
    assert float(ratio) < 1e-3


@pytest.mark.parametrize("build", [langevin, annealed_langevin])
@pytest.mark.parametrize(
    "change, error, message",
    [
        ({"snr": 0.0}, ValueError, r"snr: needs a finite number above 0, got 0\.0"),
        ({"snr": -0.1}, ValueError, r"snr: needs a finite number above 0, got -0\.1"),
        ({"snr": math.nan}, ValueError, "snr: needs a finite number above 0, got nan"),
        ({"snr": "high"}, TypeError, "snr: needs a number, got str"),
        ({"n_steps": 0}, ValueError, "n_steps: needs a whole number of steps at every time, at least 1, got 0"),
        ({"n_steps": 1.5}, ValueError, r"n_steps: needs a whole number of steps at every time, at least 1, got 1\.5"),
        ({"n_steps": True}, ValueError, "n_steps: needs a whole number"),
    ],
)
def test_bad_input(build, change, error, message):
    with pytest.raises(error, match=message):
        build(VP(), lambda x, t: -x, **change)


def test_unknown_norm():
    with pytest.raises(ValueError, match="norm: needs one of 'batch', 'sample', got 'max'"):
        langevin(VP(), lambda x, t: -x, norm="max")
