"""The exact law of a sampler on Gaussian data: the book's numbers, Monte Carlo, and what is refused."""

import math

import pytest
import torch

from sdelib import (
    VE,
    VP,
    Gaussian,
    Stepped,
    SubVP,
    affine_law,
    ancestral,
    annealed_langevin,
    ddpm,
    euler_maruyama,
    identity,
    langevin,
    randn_like,
    reverse,
    reverse_diffusion,
    simulate,
    then,
    time_grid,
)
from tests.problems import g1, g3, gm2, z_scores

f64 = torch.float64
STANDARD = Gaussian(torch.zeros(1, dtype=f64), 1.0)


def grid(t_min: float, N: int) -> torch.Tensor:
    return torch.linspace(1.0, t_min, N + 1, dtype=f64)


def vp_kl(step, N: int, start: Gaussian = STANDARD) -> float:
    """KL of the sampler's law to the exact one at t = 1e-3, in nats."""
    return affine_law(step, start, grid(1e-3, N))[-1].kl(g1().at(VP(), 1e-3))


def ve_kl(step, N: int) -> float:
    return affine_law(step, Gaussian(torch.zeros(1, dtype=f64), 2500.0), grid(1e-5, N))[-1].kl(g1().at(VE(), 1e-5))


# --- the book's table: KL to the exact law on N(0.5, 0.25) --------------------------------------------------------
# Tolerances are half a unit of the last printed digit: the recursion itself is exact to 1e-12.


@pytest.mark.parametrize(
    "N, printed, half",
    [(25, 1.6e-3, 5e-5), (50, 3.3e-4, 5e-6), (100, 7.5e-5, 5e-7), (200, 1.8e-5, 5e-7), (400, 4.4e-6, 5e-8)],
)
def test_euler_maruyama_on_vp(N, printed, half):
    sde = VP()
    assert vp_kl(euler_maruyama(*reverse(sde, g1().score_fn(sde))), N) == pytest.approx(printed, abs=half)


def test_the_kl_of_euler_maruyama_falls_fourfold_per_doubling():
    # Its weak order is 1, and KL is quadratic in the error of mean and variance.
    sde = VP()
    step = euler_maruyama(*reverse(sde, g1().score_fn(sde)))
    kls = [vp_kl(step, N) for N in (100, 200, 400)]
    assert [math.log2(kls[0] / kls[1]), math.log2(kls[1] / kls[2])] == pytest.approx([2.0, 2.0], abs=0.08)


@pytest.mark.parametrize(
    "N, rd, rd_half, anc, anc_half", [(50, 6.1e-4, 5e-6, 4.0e-4, 5e-6), (100, 1.4e-4, 5e-6, 1.0e-4, 5e-6)]
)
def test_chain_predictors_on_vp(N, rd, rd_half, anc, anc_half):
    # Here reverse diffusion and ancestral (eq. 4) walk the chain beta_i = beta(t_i) h with VP's own score.
    sde, t = VP(), grid(1e-3, N)
    chain = ddpm((sde.beta(t[:-1]) * (1 - 1e-3) / N).flip(0))
    exact = g1().score_fn(sde)
    score = lambda x, level: exact(x, 1e-3 + (1 - 1e-3) * level)
    truth = g1().at(sde, 1e-3)
    for step, printed, half in (
        (reverse_diffusion(chain, score), rd, rd_half),
        (ancestral(chain, score, variance="forward"), anc, anc_half),
    ):
        assert affine_law(step, STANDARD, chain.times())[-1].kl(truth) == pytest.approx(printed, abs=half)


def test_exact_transitions_on_vp():
    # With VP's exact transitions instead of the chain's: the book prints 9.0e-4 and 4.1e-3 at N = 100.
    sde = VP()
    score = g1().score_fn(sde)
    assert vp_kl(reverse_diffusion(sde, score), 100) == pytest.approx(9.0e-4, abs=5e-6)
    assert vp_kl(ancestral(sde, score), 100) == pytest.approx(4.1e-3, abs=5e-5)


@pytest.mark.parametrize(
    "N, rd, anc, flow, em", [(50, 8.1e-3, 6.5e-3, 1.55e-1, 2.2e-5), (100, 1.9e-3, 1.7e-3, 3.4e-2, 1.4e-6)]
)
def test_predictors_on_ve(N, rd, anc, flow, em):
    sde = VE()
    score = g1().score_fn(sde)
    assert ve_kl(reverse_diffusion(sde, score), N) == pytest.approx(rd, abs=5e-5)
    assert ve_kl(ancestral(sde, score), N) == pytest.approx(anc, abs=5e-5)
    assert ve_kl(reverse_diffusion(sde, score, eta=0.0), N) == pytest.approx(flow, abs=5e-4)
    assert ve_kl(euler_maruyama(*reverse(sde, score)), N) == pytest.approx(em, abs=5e-8 if N == 100 else 5e-7)


# --- laws that are known without the recursion ---------------------------------------------------------------------


@pytest.mark.parametrize("sde", [VE(), VP(), SubVP(), VP(T=2.0)], ids=repr)
def test_ancestral_is_exact_on_a_point(sde):
    # Where x0 is known, the posterior that ancestral sampling draws from is the true one: no error on any grid.
    m = torch.tensor([0.7, -1.2, 0.1], dtype=f64)
    point = Gaussian(m, 0.0)
    times = time_grid(7, t_min=0.05, T=sde.T)
    laws = affine_law(ancestral(sde, point.score_fn(sde)), point.at(sde, sde.T), times)
    for law, t in zip(laws[:-1], times, strict=False):
        truth = point.at(sde, t)
        torch.testing.assert_close(law.mean, truth.mean, rtol=1e-11, atol=1e-11)
        torch.testing.assert_close(law.cov, truth.cov, rtol=1e-10, atol=1e-14)
    torch.testing.assert_close(laws[-1].mean, m, rtol=1e-10, atol=1e-10)
    assert float(laws[-1].cov.abs().max()) < 1e-20


@pytest.mark.parametrize("sde", [VE(), VP(), SubVP()], ids=repr)
def test_the_last_mean_is_tweedies(sde):
    # E[x0 given x_t] = m + K (x - scale m) with gain K = scale C S^-1, S the covariance at t; its law is N(m, K S K^T).
    t, data = 0.4, g3()
    S, scale = data.at(sde, t), float(sde.scale(t))
    K = scale * data.cov @ torch.linalg.inv(S.cov)
    law = affine_law(ancestral(sde, data.score_fn(sde)), S, [t, 0.0], denoise=True)[-1]
    torch.testing.assert_close(law.mean, data.mean, rtol=1e-11, atol=1e-11)
    torch.testing.assert_close(law.cov, K @ S.cov @ K.T, rtol=1e-10, atol=1e-12)


def test_forward_euler_maruyama_converges_to_the_diffused_law_at_first_order():
    sde, data = VP(), g3()
    errors = []
    for N in (100, 200, 400):
        law = affine_law(euler_maruyama(sde.drift, sde.diffusion), data, torch.linspace(0, 1, N + 1, dtype=f64))[-1]
        errors.append(float((law.cov - data.at(sde, 1.0).cov).norm()))
    orders = [math.log2(errors[0] / errors[1]), math.log2(errors[1] / errors[2])]
    assert orders == pytest.approx([1.0, 1.0], abs=0.1)  # second-order terms are 1/100 of the rates, up to 20


def test_annealed_langevin_widens_by_a_known_factor():
    # On N(0, v I) steps of size e settle at variance v / (1 - e / (2 v)) (book chapter 1), here alpha = 1 and v = std^2.
    sde, point = VE(), Gaussian(torch.zeros(2, dtype=f64), 0.0)
    t = torch.tensor(0.5, dtype=f64)
    v = float(sde.std(t)) ** 2
    step = annealed_langevin(sde, point.score_fn(sde), snr=0.3, n_steps=200)
    law = affine_law(step, point.at(sde, t), [0.5, 0.4])[-1]
    torch.testing.assert_close(law.cov, v / (1 - 0.3**2) * torch.eye(2, dtype=f64), rtol=1e-10, atol=1e-14)


def test_identity_leaves_the_law_alone_and_plain_functions_are_steps():
    def double(x, t, t_next, generator):
        return Stepped(2 * x + 1, 2 * x, t_next)

    laws = affine_law(then(identity()), g3(), [1.0, 0.5, 0.0])
    assert len(laws) == 3
    assert torch.equal(laws[-1].cov, g3().cov)
    for denoise, shift in ((False, 1.0), (True, 0.0)):
        law = affine_law(double, g3(), [1.0, 0.5], denoise=denoise)[-1]
        torch.testing.assert_close(law.mean, 2 * g3().mean + shift, rtol=1e-14, atol=0)
        torch.testing.assert_close(law.cov, 4 * g3().cov, rtol=1e-14, atol=0)


def test_a_step_that_turns_the_space():
    # cov <- A cov A^T + L L^T with an A and an L that are not symmetric; two draws of noise in one step.
    A = torch.tensor([[1.0, 2.0, 0.0], [0.0, 0.5, -1.0], [0.3, 0.0, 1.0]], dtype=f64)
    L = torch.tensor([[0.5, 0.0, 0.0], [1.0, 0.2, 0.0], [0.0, -1.0, 2.0]], dtype=f64)

    def shear(x, t, t_next, generator):
        first, second = randn_like(x, generator), randn_like(x, generator)
        return Stepped(x @ A.T + first @ L.T + t[:, None] * second, x, t_next)

    law = affine_law(shear, g3(), [0.5, 0.0])[-1]
    torch.testing.assert_close(law.mean, A @ g3().mean, rtol=1e-13, atol=1e-13)
    truth = A @ g3().cov @ A.T + L @ L.T + 0.25 * torch.eye(3, dtype=f64)
    torch.testing.assert_close(law.cov, truth, rtol=1e-13, atol=1e-13)


# --- Monte Carlo ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("denoise", [False, True])
@pytest.mark.parametrize(
    "kind", ["ancestral on VP", "reverse diffusion on sub-VP", "Euler-Maruyama and Langevin on VE"]
)
def test_samples_follow_the_law(kind, denoise, untouched):
    data, n, times = g3(), 40_000, time_grid(12, t_min=0.02)
    if kind == "ancestral on VP":
        sde = VP()
        step = ancestral(sde, data.score_fn(sde))
    elif kind == "reverse diffusion on sub-VP":
        sde = SubVP()
        step = reverse_diffusion(sde, data.score_fn(sde))
    else:
        sde = VE(sigma_max=5.0)
        score = data.score_fn(sde)
        step = then(annealed_langevin(sde, score, n_steps=2), euler_maruyama(*reverse(sde, score)))
    generator = torch.Generator().manual_seed(6)
    start = data.at(sde, 1.0)
    x = simulate(step, start.sample(n, generator=generator), times, generator=generator, denoise=denoise).x
    law = affine_law(step, start, times, denoise=denoise)[-1]
    # Coarse enough a grid that the law is far from the data's: agreeing with the truth would be agreeing by chance.
    assert float((law.cov - data.cov).abs().max()) > 0.01
    assert float(z_scores(x, law.mean, law.cov).abs().max()) < 4.5  # 12 numbers: chance 1e-4, and the seed is fixed


# --- what is refused -----------------------------------------------------------------------------------------------


def test_a_step_that_couples_items_is_refused():
    # One step size shared by the whole batch looks affine row by row; sent alone, the same probe lands elsewhere.
    sde = VP()
    for data in (g1(), g3()):
        step = langevin(sde, data.score_fn(sde), norm="batch")
        with pytest.raises(ValueError, match=r"step: couples the items of a batch at t = 0\.5 .* or on its neighbours"):
            affine_law(step, data.at(sde, 0.5), [0.5, 0.4])
    with pytest.raises(ValueError, match=r"step: is not affine at t = 0.5"):
        affine_law(langevin(sde, g3().score_fn(sde), norm="sample"), g3().at(sde, 0.5), [0.5, 0.4])


def test_a_score_that_is_not_affine_is_refused():
    sde = VP()
    with pytest.raises(
        ValueError, match=r"step: is not affine at t = 0.5 \(a probe landed .* away\); .* exact Gaussian score"
    ):
        affine_law(ancestral(sde, gm2().score_fn(sde)), Gaussian(torch.zeros(2), 1.0), [0.5, 0.4])


def test_a_step_that_draws_uniform_numbers_is_refused():
    from sdelib import ops

    def metropolis(x, t, t_next, generator):
        return Stepped(x + ops.rand(len(x), generator=generator)[:, None], x, t)

    with pytest.raises(TypeError, match=r"generator: uniform numbers need a torch\.Generator"):
        affine_law(metropolis, g1(), [0.5, 0.4])


def test_bad_arguments_are_refused():
    with pytest.raises(TypeError, match="start: needs a Gaussian, got GaussianMixture"):
        affine_law(identity(), gm2(), [1.0, 0.0])
    with pytest.raises(ValueError, match="times: need to rise or fall strictly, got 1 then 1"):
        affine_law(identity(), g1(), [1.0, 1.0, 0.0])
    with pytest.raises(ValueError, match="times: needs a grid of at least two times"):
        affine_law(identity(), g1(), [1.0])
