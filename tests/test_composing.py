"""A step under a constraint, and a step done over: plans, costs, order of parts, and the exact law of what they make."""

import itertools

import pytest
import torch

from sdelib import (
    VE,
    VP,
    Gaussian,
    Ito,
    Stepped,
    SubVP,
    affine_law,
    ancestral,
    annealed_langevin,
    ddpm,
    euler_maruyama,
    hmc,
    identity,
    impose,
    langevin,
    linear_betas,
    observe,
    project,
    randn_like,
    resample,
    reverse,
    reverse_diffusion,
    simulate,
    then,
    time_grid,
)
from tests.problems import gm2, z_scores

f64 = torch.float64

# The book's example: two standard normals of correlation 0.8, the first one known to be 1.5.
PAIR = Gaussian(torch.zeros(2, dtype=f64), torch.tensor([[1.0, 0.8], [0.8, 1.0]], dtype=f64))
Y, MASK = torch.tensor([1.5, 0.0], dtype=f64), torch.tensor([True, False])
EXACT_MEAN, EXACT_VARIANCE = 1.2, 0.36  # rho y and 1 - rho^2


def unknown(sde, step, N):
    """Mean and variance of the second number, exactly: from noise under the constraint, to t = 1e-3, then denoised."""
    T = torch.tensor(sde.T, dtype=f64)
    scale, std = float(sde.scale(T)), float(sde.std(T))
    start = Gaussian(
        torch.tensor([1.5 * scale, 0.0], dtype=f64), torch.tensor([[std**2, 0.0], [0.0, sde.prior_std**2]])
    )
    law = affine_law(step, start, time_grid(N, t_min=1e-3), denoise=True)[-1]
    assert float(law.mean[0]) == 1.5
    assert float(law.cov[0, 0]) == 0.0
    return float(law.mean[1]), float(law.cov[1, 1])


def gen(seed=0):
    return torch.Generator().manual_seed(seed)


# --- replacement's bias, and what mends it -----------------------------------------------------------------------


@pytest.mark.parametrize("sde", [VP(), VE(), SubVP()], ids=lambda sde: type(sde).__name__)
def test_replacement_is_biased_and_more_steps_do_not_help(sde):
    known = observe(sde, Y, MASK)
    step = project(euler_maruyama(*reverse(sde, PAIR.score_fn(sde))), known)
    ends = [unknown(sde, step, N) for N in (200, 400, 800)]
    # The error of the steps, of weak order 1, halves; what it converges to is the bias: Richardson's extrapolation.
    limit = [2 * late - early for early, late in zip(*ends[1:], strict=True)]
    earlier = [2 * late - early for early, late in zip(*ends[:2], strict=True)]
    assert limit == pytest.approx(earlier, abs=3e-4)
    assert limit == pytest.approx([0.750, 0.495], abs=1e-3)  # the book's figures, printed to three digits
    assert limit[0] < EXACT_MEAN - 0.44
    assert limit[1] > EXACT_VARIANCE + 0.13


def test_the_books_figures_at_1000_steps():
    sde, known = VP(), observe(VP(), Y, MASK)
    score = PAIR.score_fn(sde)
    for step, mean, variance in [
        (euler_maruyama(*reverse(sde, score)), 0.7506, 0.4951),
        (reverse_diffusion(sde, score), 0.7478, 0.4973),
        (ancestral(sde, score), 0.7486, 0.4897),
    ]:  # no Monte Carlo: half a unit of the last digit
        assert unknown(sde, project(step, known), 1000) == pytest.approx((mean, variance), abs=5e-5)


def test_resampling_halves_the_bias_with_every_doubling():
    sde = VP()
    step = project(ancestral(sde, PAIR.score_fn(sde), variance="forward"), observe(sde, Y, MASK))
    mean, variance = zip(*(unknown(sde, resample(step, sde, n), 100) for n in (1, 2, 4, 8)), strict=True)
    bias = [EXACT_MEAN - m for m in mean]
    ratios = [late / early for early, late in itertools.pairwise(bias)]
    assert ratios[1:] == pytest.approx([0.5] * 2, abs=0.06)
    # The variance comes down, too, as far as 100 steps allow.
    assert all(late < early for early, late in itertools.pairwise(variance))
    assert variance[-1] == pytest.approx(EXACT_VARIANCE, abs=0.03)


def test_what_a_step_gets_wrong_resampling_repeats():
    sde, score = VP(), PAIR.score_fn(VP())
    known = observe(sde, Y, MASK)
    for kind, variance in (("posterior", 0.2423), ("forward", 0.3833)):
        step = resample(project(ancestral(sde, score, variance=kind), known), sde, 10)
        # Both have the same mean, for they differ in their noise alone.
        assert unknown(sde, step, 50) == pytest.approx((1.1380, variance), abs=5e-5)


def test_correctors_under_the_constraint_mend_the_bias():
    sde, score = VP(), PAIR.score_fn(VP())
    known = observe(sde, Y, MASK)
    correct = project(annealed_langevin(sde, score), known)
    predict = project(ancestral(sde, score), known)
    mean, variance = zip(*(unknown(sde, then(*[correct] * M, predict), 100) for M in (1, 2, 4)), strict=True)
    assert mean == pytest.approx([0.8203, 0.8765, 0.9465], abs=5e-5)
    assert variance == pytest.approx([0.4376, 0.4246, 0.4085], abs=5e-5)
    # Four steps of one corrector, only then the constraint: a little less is mended, for meanwhile the known part strays.
    late = then(project(annealed_langevin(sde, score, n_steps=4), known), predict)
    assert unknown(sde, late, 100)[0] == pytest.approx(0.9386, abs=5e-5)


def test_samples_have_the_law_that_the_recursion_gives(generator):
    sde, score = VP(), PAIR.score_fn(VP())
    known, n = observe(sde, Y, MASK), 20_000
    step = resample(project(ancestral(sde, score, variance="forward"), known), sde, 2)
    mean, variance = unknown(sde, step, 20)
    start = impose(known, sde.prior_sample((n, 2), generator=generator, dtype=f64), 1.0, generator=generator)
    x = simulate(step, start, time_grid(20, t_min=1e-3), generator=generator, denoise=True).x
    assert torch.equal(x[:, 0], torch.full((n,), 1.5, dtype=f64))
    assert float(z_scores(x[:, 1:], torch.tensor([mean]), torch.tensor([[variance]])).abs().max()) < 4  # fixed seed


# --- the mean: what is unknown is truly denoised ---------------------------------------------------------------


@pytest.mark.parametrize("sde", [VE(), VP(), ddpm(linear_betas(50))], ids=lambda sde: type(sde).__name__)
@pytest.mark.parametrize("make", [ancestral, reverse_diffusion])
def test_the_unknown_part_is_denoised_and_the_known_one_is_y(sde, make, generator):
    # The last step alone, t -> 0: its mean is what the predictor's own mean is, where nothing is known.
    score, t = gm2().score_fn(sde), 0.02
    step = make(sde, score)
    x = torch.randn(6, 2, dtype=f64, generator=generator)
    known = observe(sde, Y, MASK)
    path = simulate(project(step, known), x, [t, 0.0], generator=gen(1), denoise=True)
    own = simulate(step, x, [t, 0.0], generator=gen(1), denoise=True)
    assert torch.equal(path.x[:, 1], own.x[:, 1])
    assert torch.equal(path.x[:, 0], Y[0].expand(6))
    noisy = simulate(project(step, known), x, [t, 0.0], generator=gen(1)).x
    assert torch.equal(noisy[:, 0], Y[0].expand(6))  # at time 0 y itself, denoised or not
    if make is reverse_diffusion:
        assert float((noisy - path.x)[:, 1].abs().min()) > 1e-5  # without denoise the last noise is still in it


@pytest.mark.parametrize("where", ["around each", "around both", "around the predictor"])
def test_a_corrector_behind_the_predictor_leaves_the_mean(where):
    """At time 0 a corrector has nothing to do; under a constraint, too, the mean is still that of the predictor."""
    sde, score = VE(), gm2().score_fn(VE())
    known = observe(sde, Y, MASK)
    predict, correct = reverse_diffusion(sde, score), annealed_langevin(sde, score)
    step = {
        "around each": then(project(predict, known), project(correct, known)),
        "around both": project(then(predict, correct), known),
        "around the predictor": then(project(predict, known), correct),
    }[where]
    x = torch.randn(5, 2, dtype=f64, generator=gen())
    alone = simulate(project(predict, known), x, [0.3, 0.0], generator=gen(1), denoise=True).x
    assert torch.equal(simulate(step, x, [0.3, 0.0], generator=gen(1), denoise=True).x, alone)
    t, zero = torch.full((5,), 0.3, dtype=f64), torch.zeros(5, dtype=f64)
    assert torch.equal(step(x, t, zero, gen(1)).mean, alone)


def test_the_constraint_runs_at_the_time_the_step_ended():
    times = []

    def watch(stepped, generator):
        times.append(float(stepped.t[0]))
        return stepped

    sde, score = VP(), PAIR.score_fn(VP())
    step = then(project(langevin(sde, score), watch), project(ancestral(sde, score), watch))
    simulate(step, torch.randn(4, 2, generator=gen()), [1.0, 0.5, 0.25], generator=gen())
    assert times == [1.0, 0.5, 0.5, 0.25]


# --- plans and costs ---------------------------------------------------------------------------------------------


def steps_to_plan(sde, score, known):
    predict, correct = ancestral(sde, score), langevin(sde, score, n_steps=2)
    return {
        "projected": (project(predict, known), 1),
        "projected corrector first": (then(project(correct, known), project(predict, known)), 3),
        "a row projected": (project(then(correct, predict), known), 3),
        "corrector behind": (then(project(predict, known), project(correct, known)), 3),
        "projected twice": (project(project(predict, known), known), 1),
        "resampled": (resample(project(predict, known), sde, 3), 3),
        "resampled row": (then(correct, resample(then(correct, project(predict, known)), sde, 2)), 8),
        "resampled, then projected": (project(resample(predict, sde, 2), known), 2),
        "corrector only": (then(project(correct, known), project(identity(), known)), 2),
        "hmc": (then(project(hmc(sde, score, n_leapfrog=2), known), predict), 4),
        "a function": (project(lambda x, t, t_next, g=None: predict(x, t, t_next, g), known), 0),
    }


@pytest.mark.parametrize("sde", [VP(), ddpm(linear_betas(50))], ids=lambda sde: type(sde).__name__)
@pytest.mark.parametrize("which", steps_to_plan(VP(), PAIR.score_fn(VP()), observe(VP(), Y, MASK)))
def test_a_plan_gives_what_calls_give(sde, which):
    calls = []

    def score(x, t):
        calls.append(len(x))
        return gm2().score_fn(sde)(x, t)

    step, nfe = steps_to_plan(sde, score, observe(sde, Y, MASK))[which]
    assert getattr(step, "nfe", 0) == nfe
    times = [1.0, 0.6, 0.3, 0.0]
    x = torch.randn(5, 2, dtype=f64, generator=gen())
    planned = simulate(step, x, times, generator=gen(1))
    assert planned.nfe in (len(calls), 0)
    called, g = x, gen(1)
    for t, t_next in itertools.pairwise(torch.tensor(times, dtype=f64)):
        called = step(called, t.expand(5), t_next.expand(5), g).x
    assert torch.equal(planned.x, called)


def test_who_moves_time():
    sde, score = VP(), PAIR.score_fn(VP())
    known = observe(sde, Y, MASK)
    assert not project(langevin(sde, score), known).moves
    assert not then(langevin(sde, score)).moves
    assert project(then(langevin(sde, score), ancestral(sde, score)), known).moves
    assert resample(ancestral(sde, score), sde, 2).moves


def test_once_is_the_step_itself():
    sde, score = VP(), gm2().score_fn(VP())
    x, t, later = torch.randn(4, 2, generator=gen()), torch.full((4,), 0.4), torch.full((4,), 0.3)
    step = ancestral(sde, score)
    for a, b in zip(step(x, t, later, gen(1)), resample(step, sde, 1)(x, t, later, gen(1)), strict=True):
        assert torch.equal(a, b)


def test_going_back_and_down_again_keeps_the_law():
    # Unconstrained, with the exact reverse kernel, up and down again is p_{t_next} again. For Gaussian data that kernel is
    # known: of correlated x only a step of its own, here N(C_s a C_t^-1 x, C_s - C_s a C_t^-1 a C_s).
    sde, t, s = VP(), torch.tensor(0.5, dtype=f64), torch.tensor(0.2, dtype=f64)
    a, _ = (float(v) for v in sde.transition(s, t))
    early, late = PAIR.at(sde, s).cov, PAIR.at(sde, t).cov
    gain = a * early @ torch.linalg.inv(late)
    root = torch.linalg.cholesky(early - gain @ late @ gain.T)

    def exact(x, now, later, source=None):
        mean = x @ gain.T
        return Stepped(mean + randn_like(x, source) @ root.T, mean, later)

    law = affine_law(resample(exact, sde, 4), PAIR.at(sde, t), [0.5, 0.2])[-1]
    torch.testing.assert_close(law.cov, early, rtol=1e-12, atol=1e-13)


@pytest.mark.usefixtures("untouched")
def test_all_noise_comes_from_the_generator():
    sde, score = VP(), PAIR.score_fn(VP())
    step = resample(project(ancestral(sde, score), observe(sde, Y, MASK)), sde, 2)
    x = torch.zeros(3, 2)
    one, two = (simulate(step, x, [1.0, 0.5, 0.0], generator=gen(5)).x for _ in range(2))
    assert torch.equal(one, two)
    assert one.dtype == torch.float32


@pytest.mark.parametrize(
    "make, error, message",
    [
        (lambda s: project(3, s), TypeError, r"step: needs a function of \(x, t, t_next, generator\), got int"),
        (lambda s: project(s, Y), TypeError, r"constraint: needs a function of \(stepped, generator\), got Tensor"),
        (lambda s: resample(s, Ito(lambda x, t: x, lambda t: t), 2), TypeError, "noising: needs a transition .* Ito lacks"),
        (lambda s: resample(3, VP(), 2), TypeError, "step: needs a function"),
        (lambda s: resample(s, VP(), 0), ValueError, "n: needs a whole number of times, at least 1, got 0"),
        (lambda s: resample(langevin(VP(), s), VP(), 2), ValueError, "step: needs one that moves to t_next"),
        (lambda s: resample(project(langevin(VP(), s), s), VP(), 2), ValueError, "step: needs one that moves to t_next"),
        (lambda s: then(project(ancestral(VP(), s), s), ancestral(VP(), s)), ValueError, "one predictor at most, got 2"),
    ],
)  # fmt: skip
def test_bad_input_is_refused(make, error, message):
    with pytest.raises(error, match=message):
        make(lambda x, t: x)
