"""Terms for linear measurements, against the exact conditional scores of Gaussians and mixtures."""

import math

import pytest
import torch

from sdelib import (
    VE,
    VP,
    Gaussian,
    GaussianMixture,
    Ito,
    SubVP,
    affine_law,
    ancestral,
    ddpm,
    guided,
    linear_betas,
    linear_guidance,
    measured,
    time_grid,
)
from tests.problems import g3, gm2

f64 = torch.float64
A3 = torch.tensor([[1.0, 0.5, 0.0], [0.0, 1.0, -1.0]], dtype=f64)
Y3 = torch.tensor([0.4, -0.2], dtype=f64)
CASES = [VP(), VE(sigma_max=5.0), SubVP(), ddpm(linear_betas(50))]
each = pytest.mark.parametrize("noising", CASES, ids=lambda n: type(n).__name__)


def gen(seed=0):
    return torch.Generator().manual_seed(seed)


def noisy(noising, law, n=12):
    """Points of the law at every time from 0.02 to 1, and the times."""
    t = torch.linspace(0.02, 1.0, n, dtype=f64)
    t = torch.round(t * 50) / 50
    x0 = law.sample(n, generator=gen(1), dtype=f64)
    return noising.perturb(x0, t, torch.randn(n, law.dim, dtype=f64, generator=gen(2))), t


def error(noising, law, term, A, y, sigma):
    """Worst |score - exact| std(t): in units of the noise's own score."""
    x, t = noisy(noising, law)
    exact = law.given(A, y, noise_std=sigma).score_fn(noising)(x, t)
    got = guided(law.score_fn(noising), term)(x, t).detach()
    return float(((got - exact).norm(dim=1) * noising.std(t)).max())


@each
@pytest.mark.parametrize("sigma", [0.0, 0.1, 1.0])
def test_the_true_covariance_is_exact_on_gaussian_data(noising, sigma):
    term = linear_guidance(noising, g3().score_fn(noising), A3, Y3, noise_std=sigma, covariance="tweedie")
    # Rounding, times the condition of A C A^T: C is what is left of x(0), 1e-8 of its variance at SubVP's small times.
    assert error(noising, g3(), term, A3, Y3, sigma) < (1e-7 if sigma == 0.0 else 1e-10)


@each
def test_isotropic_is_exact_on_isotropic_data(noising):
    for std in (1.0, 0.4):
        law = Gaussian(torch.tensor([0.3, -1.0, 0.2], dtype=f64), std**2)
        term = linear_guidance(noising, law.score_fn(noising), A3, Y3, noise_std=0.3, data_std=std)
        assert error(noising, law, term, A3, Y3, 0.3) < 1e-11


@each
def test_through_yt_is_exact_where_data_are_spread_evenly(noising):
    # Data of standard deviation 1e5: flat, as far as the noise at any time can see. Their variance, 1e10, rounds the posterior's
    # to 1e-6, which is 1e-4 of the smallest noise's.
    law = Gaussian(torch.zeros(3, dtype=f64), 1e10)
    x, t = noisy(noising, Gaussian(torch.zeros(3, dtype=f64), 1.0))
    exact = law.given(A3, Y3, noise_std=0.3).score_fn(noising)(x, t)
    got = measured(noising, A3, Y3, noise_std=0.3)(x, t)
    assert float(((got - exact).norm(dim=1) * noising.std(t)).max()) < 2e-4


PAIR = Gaussian(torch.zeros(2, dtype=f64), torch.tensor([[1.0, 0.8], [0.8, 1.0]], dtype=f64))
FIRST, SEEN = torch.tensor([[1.0, 0.0]], dtype=f64), torch.tensor([1.5], dtype=f64)


def terms(sde, law, y, sigma):
    score = law.score_fn(sde)
    return {
        "none": lambda x, t: 0.0 * x,
        "y(t)": measured(sde, FIRST, y, noise_std=sigma),
        "isotropic": linear_guidance(sde, score, FIRST, y, noise_std=sigma),
        "tweedie": linear_guidance(sde, score, FIRST, y, noise_std=sigma, covariance="tweedie"),
    }


def mean_error(sde, law, y):
    """Root mean square of |score - exact| std(t) on draws of the true noisy posterior, t from 0.02 to 1; noise 0.3 in y."""
    post, score, n = law.given(FIRST, y, noise_std=0.3), law.score_fn(sde), 400
    t = torch.linspace(0.02, 1.0, n, dtype=f64)
    x = sde.perturb(post.sample(n, generator=gen(1), dtype=f64), t, torch.randn(n, 2, dtype=f64, generator=gen(2)))
    exact, result = post.score_fn(sde)(x, t), {}
    for way, term in terms(sde, law, y, 0.3).items():
        gap = (guided(score, term)(x, t).detach() - exact) * sde.std(t)[:, None]
        result[way] = float((gap**2).sum(1).mean().sqrt())
    return result


def test_how_far_off_they_are():
    # No Monte Carlo in what is printed: fixed points, half a unit of the last digit.
    pair = mean_error(VP(), PAIR, SEEN)
    assert pair["tweedie"] < 1e-13
    assert [pair[way] for way in ("none", "y(t)", "isotropic")] == pytest.approx([0.540, 0.924, 0.063], abs=5e-4)
    # Off the Gaussians the true second moment helps, and is not exact: p(x(0) | x(t)) has several hills.
    for y, isotropic, tweedie in ((1.5, 0.324, 0.080), (0.4, 0.174, 0.139), (-1.0, 0.198, 0.088)):
        off = mean_error(VP(), gm2(), torch.tensor([y], dtype=f64))
        assert [off["isotropic"], off["tweedie"]] == pytest.approx([isotropic, tweedie], abs=5e-4)
        assert off["isotropic"] < off["none"] < off["y(t)"]


@pytest.mark.parametrize(
    "way, mean, variance",
    [
        ("y(t)", [1.1729, 0.4919], [0.0871, 0.6312]),
        ("isotropic", [1.3425, 1.0451], [0.0980, 0.4438]),
        ("tweedie", [1.3761, 1.1009], [0.0888, 0.4210]),
    ],
)
def test_what_sampling_makes_of_them(way, mean, variance):
    """The exact law of 100 ancestral steps on VP, y = 1.5 with noise 0.3, where mean and variances are known."""
    sde = VP()
    step = ancestral(sde, guided(PAIR.score_fn(sde), terms(sde, PAIR, SEEN, 0.3)[way]), variance="forward")
    law = affine_law(step, Gaussian(torch.zeros(2, dtype=f64), 1.0), time_grid(100, t_min=1e-3), denoise=True)[-1]
    assert law.mean.tolist() == pytest.approx(mean, abs=5e-5)
    assert law.cov.diagonal().tolist() == pytest.approx(variance, abs=5e-5)
    exact = PAIR.given(FIRST, SEEN, noise_std=0.3)
    assert exact.mean.tolist() == pytest.approx([1.5 / 1.09, 1.2 / 1.09], rel=1e-14)
    if way == "tweedie":  # 100 steps leave 1e-4 of the mean and 0.01 of the variance
        torch.testing.assert_close(law.mean, exact.mean, rtol=0, atol=1e-4)
        torch.testing.assert_close(law.cov, exact.cov, rtol=0, atol=0.01)


# --- A as a function, images, shapes -----------------------------------------------------------------------------


@pytest.mark.parametrize("covariance", ["isotropic", "tweedie"])
def test_a_function_does_what_its_matrix_does(covariance):
    sde, law = VP(), g3()
    x, t = noisy(sde, law)
    score = law.score_fn(sde)
    for make in (
        lambda A: measured(sde, A, Y3, noise_std=0.2),
        lambda A: measured(sde, A, Y3),
        lambda A: linear_guidance(sde, score, A, Y3, noise_std=0.2, covariance=covariance),
    ):
        torch.testing.assert_close(make(lambda v: v @ A3.T)(x, t), make(A3)(x, t), rtol=1e-11, atol=1e-12)


def test_images_take_the_same_path():
    """Means of blocks of 2 x 2 pixels: as a function of images, and as a matrix of a mixture on flattened points."""
    sde, root = VP(), torch.randn(16, 16, dtype=f64, generator=gen())
    law = Gaussian(torch.zeros(16, dtype=f64), root @ root.T / 16 + 0.1 * torch.eye(16, dtype=f64))
    score = lambda x, t: law.score_fn(sde)(x.reshape(-1, 16), t).reshape(x.shape)
    blocks = lambda x: torch.nn.functional.avg_pool2d(x, 2)
    y = torch.randn(1, 2, 2, dtype=f64, generator=gen(1))
    A = blocks(torch.eye(16, dtype=f64).reshape(16, 1, 4, 4)).reshape(16, 4).T
    term = linear_guidance(sde, score, blocks, y, noise_std=0.1, covariance="tweedie")
    x, t = noisy(sde, law)
    exact = law.given(A, y.flatten(), noise_std=0.1).score_fn(sde)(x, t)
    images = x.reshape(-1, 1, 4, 4)
    torch.testing.assert_close(guided(score, term)(images, t), exact.reshape(images.shape), rtol=1e-9, atol=1e-9)
    assert measured(sde, blocks, y)(images, t).shape == images.shape
    assert linear_guidance(sde, score, blocks, y, noise_std=0.0)(images.float(), t).dtype == torch.float32


def test_what_is_measured_twice_counts_once_without_noise():
    sde, law = VP(), g3()
    x, t = noisy(sde, law)
    twice, y = torch.cat([A3, A3[:1]]), torch.cat([Y3, Y3[:1]])
    torch.testing.assert_close(measured(sde, twice, y)(x, t), measured(sde, A3, Y3)(x, t), rtol=1e-9, atol=1e-9)
    for kind in ("isotropic", "tweedie"):
        one, two = (
            linear_guidance(sde, law.score_fn(sde), A, b, noise_std=0.0, covariance=kind)(x, t)
            for A, b in ((A3, Y3), (twice, y))
        )
        torch.testing.assert_close(two, one, rtol=1e-6, atol=1e-6)


def test_every_item_its_own_measurement():
    sde, law = VE(), g3()
    x, t = noisy(sde, law)
    ys = torch.randn(len(x), 2, dtype=f64, generator=gen())
    for make in (
        lambda y: measured(sde, A3, y),
        lambda y: linear_guidance(sde, law.score_fn(sde), A3, y, noise_std=0.1),
        lambda y: linear_guidance(sde, law.score_fn(sde), A3, y, noise_std=0.1, covariance="tweedie"),
    ):
        whole = make(ys)(x, t)
        for i in (0, 5):
            torch.testing.assert_close(make(ys[i])(x[i : i + 1], t[i : i + 1]), whole[i : i + 1], rtol=1e-9, atol=1e-9)


@pytest.mark.usefixtures("untouched")
def test_the_papers_single_draw():
    # One y(t) drawn: on average the gradient of log N(scale y; A x, scale^2 sigma^2), which leaves the noise of y(t) out.
    sde, sigma = VP(), 0.5
    n, t = 40_000, 0.3
    x = torch.tensor([[0.2, -0.4, 1.0]], dtype=f64).expand(n, 3)
    time = torch.full((n,), t, dtype=f64)
    pulls = measured(sde, A3, Y3, noise_std=sigma, draw=True, generator=gen())(x, time)
    scale, std = (float(v) for v in (sde.scale(time[0]), sde.std(time[0])))
    mean = (scale * Y3 - A3 @ x[0]) @ A3 / (scale * sigma) ** 2
    root = std * A3.T @ A3 / (scale * sigma) ** 2
    cov = root @ root.T + 1e-12 * torch.eye(3, dtype=f64)  # of rank 2
    assert float(((pulls.mean(0) - mean) / (cov.diagonal() / n).sqrt()).abs().max()) < 4
    torch.testing.assert_close(torch.cov(pulls.T), root @ root.T, rtol=0.03, atol=0.03 * float(cov.max()))


def test_costs():
    sde, law, forwards, backwards = VP(), g3(), [], []

    class Watch(torch.autograd.Function):
        @staticmethod
        def forward(ctx, x):
            forwards.append(1)
            return x.clone()

        @staticmethod
        def backward(ctx, g):
            backwards.append(1)
            return g

    score = lambda x, t: law.score_fn(sde)(Watch.apply(x), t)
    x, t = noisy(sde, law)
    with torch.no_grad():
        for kind, passes in (("isotropic", 1), ("tweedie", 2)):
            forwards.clear(), backwards.clear()
            out = linear_guidance(sde, score, A3, Y3, noise_std=0.1, covariance=kind)(x, t)
            assert (len(forwards), len(backwards)) == (1, passes)
            assert not out.requires_grad


def test_gradients_pass_where_they_are_asked_for():
    sde, law = VP(), g3()
    x, t = noisy(sde, law, 3)
    for kind in ("isotropic", "tweedie"):
        term = linear_guidance(sde, law.score_fn(sde), A3, Y3, noise_std=0.2, covariance=kind)
        assert torch.autograd.gradcheck(lambda v, term=term: term(v, t), x.clone().requires_grad_())
    with torch.inference_mode(), pytest.raises(RuntimeError, match=r"forbids; use torch.no_grad\(\)"):
        term(x, t)


S = lambda x, t: -x
X, T = torch.zeros(2, 3), torch.full((2,), 0.5)


@pytest.mark.parametrize(
    "make, error, message",
    [
        (lambda: measured(Ito(S, lambda t: t), A3, Y3), TypeError, "noising: needs scale and std, which Ito lacks"),
        (lambda: measured(VP(), A3, Y3, draw=True), ValueError, "noise_std: needs to be above 0 with draw=True"),
        (lambda: measured(VP(), A3, Y3, noise_std=-1.0), ValueError, "noise_std: .* at least 0, got -1.0"),
        (lambda: measured(VP(), A3, Y3, noise_std=math.nan), ValueError, "noise_std: .* at least 0, got nan"),
        (lambda: measured(VP(), A3[0], Y3), ValueError, r"A: needs a floating-point matrix \(M, D\), got .* shape \(3,\)"),
        (lambda: measured(VP(), [[1.0]], Y3), TypeError, "A: needs a function of a batch, got list"),
        (lambda: measured(VP(), A3, [1.0]), TypeError, "y: needs a floating-point tensor, got list"),
        (lambda: measured(VP(), A3, Y3 / 0), ValueError, "y: needs finite values"),
        (lambda: measured(VP(), A3[:, :2], Y3)(X, T), ValueError, r"A: needs shape \(M, 3\) for these items, got \(2, 2\)"),
        (lambda: measured(VP(), A3, torch.zeros(3))(X, T), ValueError, r"y: needs .* A's output, \(2, 2\), got \(3,\)"),
        (lambda: measured(VP(), lambda x: x**2, X)(X, T), ValueError, r"A: needs a linear function, got one with A\(-x\)"),
        (lambda: measured(VP(), lambda x: x + 1, X)(X, T), ValueError, "A: needs a linear function"),
        (lambda: measured(VP(), lambda x: x.sum(), X)(X, T), ValueError, "A: needs an output with an item for every item"),
        (lambda: linear_guidance(VP(), 3, A3, Y3, noise_std=0.1), TypeError, "score: needs a function"),
        (lambda: linear_guidance(VP(), S, A3, Y3, noise_std=0.1, covariance="full"), ValueError, "covariance: needs one of"),
        (lambda: linear_guidance(VP(), S, A3, Y3, noise_std=0.1, data_std=0), ValueError, "data_std: .* above 0, got 0"),
    ],
)  # fmt: skip
def test_bad_input_is_refused(make, error, message):
    with pytest.raises(error, match=message):
        make()


def test_a_mixture_of_one_is_a_gaussian():
    law = GaussianMixture([1.0], g3().mean[None], g3().cov[None])
    sde = VP()
    term = linear_guidance(sde, law.score_fn(sde), A3, Y3, noise_std=0.1, covariance="tweedie")
    assert error(sde, law, term, A3, Y3, 0.1) < 1e-10
