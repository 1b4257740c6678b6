"""Scores: what a network's output means, four ways to say the same thing, gradients of log-densities."""

import math

import hypothesis.strategies as st
import pytest
import torch
from hypothesis import given
from torch import nn

from sdelib import (
    VE,
    VP,
    Chain,
    Gaussian,
    GaussianMixture,
    Ito,
    NetScore,
    SubVP,
    as_score,
    convert,
    ddpm,
    denoised,
    geometric_sigmas,
    grad_of,
    guided,
    linear_betas,
    net_score,
    smld,
)

SMLD, DDPM = smld(geometric_sigmas(20, sigma_min=0.02, sigma_max=30.0)), ddpm(linear_betas(100))
NOISINGS = [VE(), VP(), SubVP(), VP(0.2, 9.0, T=2.0), SMLD, DDPM]
PREDICTIONS = ("score", "noise", "x0", "v")
two_modes = GaussianMixture([0.3, 0.7], [[-1.5], [1.0]], [0.09, 0.25])


class Recorder(nn.Module):
    """A network that returns what it is told and remembers what it was given."""

    def __init__(self, give=None):
        super().__init__()
        self.give = give

    def forward(self, x, label):
        self.seen = (x, label)
        return x.sin() if self.give is None else self.give


# --- NetScore ------------------------------------------------------------------------------------------------------


def test_net_score_is_its_formula(generator):
    """skip x + out net(inp, label), with scalings that no noising has: EDM's, with sigma = t (Karras et al. 2022)."""
    x, t = torch.randn(5, 3, 2, dtype=torch.float64, generator=generator), torch.linspace(0.1, 2.0, 5).double()
    W = torch.randn(2, 2, dtype=torch.float64, generator=generator)
    score = NetScore(
        lambda x, label: x @ W + label[:, None, None],
        label=lambda t: t.log() / 4,
        out=lambda t: t / (1 + t**2).sqrt(),
        inp=lambda x, t: x / (1 + t**2).sqrt()[:, None, None],
        skip=lambda t: 1 / (1 + t**2),
    )
    for i, ti in enumerate(t.tolist()):
        expected = x[i] / (1 + ti**2)
        expected = expected + ti / math.sqrt(1 + ti**2) * (x[i] / math.sqrt(1 + ti**2) @ W + math.log(ti) / 4)
        torch.testing.assert_close(score(x, t)[i], expected, rtol=1e-13, atol=1e-13)


def _table(noising, t):
    """(label, out) of the authors' networks, by hand from the equations' parameters."""
    if isinstance(noising, VE):
        sigma = noising.sigma_min * (noising.sigma_max / noising.sigma_min) ** t
        return math.log(sigma), 1 / sigma
    if isinstance(noising, VP):
        B = noising.beta_min * t + (noising.beta_max - noising.beta_min) * t * t / (2 * noising.T)
        variance = 1 - math.exp(-B)
        return 999 * t / noising.T, -1 / (variance if isinstance(noising, SubVP) else math.sqrt(variance))
    i = round(t * noising.N)
    if noising is SMLD:
        return noising.N - i, 1 / (0.02 * (30.0 / 0.02) ** ((i - 1) / 19))
    alpha = math.prod(1 - (0.1 + (20.0 - 0.1) * j / 99) / 100 for j in range(i))
    return i - 1, -1 / math.sqrt(1 - alpha)


@pytest.mark.parametrize("noising", NOISINGS, ids=repr)
def test_labels_and_outputs_are_the_authors(noising):
    times = torch.tensor([0.05, 0.5, 1.0], dtype=torch.float64) * noising.T
    net = Recorder(torch.ones(3, 2, dtype=torch.float64))
    out = net_score(net, noising)(torch.zeros(3, 2, dtype=torch.float64), times)
    for i, t in enumerate(times.tolist()):
        label, factor = _table(noising, t)
        assert float(net.seen[1][i]) == pytest.approx(label, rel=1e-12)
        assert out[i].tolist() == pytest.approx([factor, factor], rel=1e-10)


@pytest.mark.parametrize("noising", [VE(), VP(), SubVP()], ids=repr)
def test_a_network_that_knows_the_noise_is_the_score(noising, generator):
    """With the authors' scaling the target of the network is +-noise of unit variance at every time."""
    x0 = torch.randn(200, 2, generator=generator, dtype=torch.float64)
    noise = torch.randn(200, 2, generator=generator, dtype=torch.float64)
    t = torch.linspace(0.01, 1.0, 200, dtype=torch.float64)
    sign = -1.0 if isinstance(noising, VE) else 1.0  # VE's out is +1/sigma: that network predicts minus the noise
    score = net_score(Recorder(sign * noise), noising)(noising.perturb(x0, t, noise), t)
    torch.testing.assert_close(score, -noise / noising.std(t)[:, None], rtol=1e-12, atol=0)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float32, torch.float64])
def test_scalings_are_computed_in_float32_or_better(dtype, generator):
    """VP at t = 1e-5: 1/std is 1,000; bfloat16 would round it (and the label) to 8 bits."""
    x = torch.randn(4, 2, generator=generator).to(dtype)
    t = torch.tensor([1e-5, 0.3, 0.7003, 1.0], dtype=torch.promote_types(dtype, torch.float32))
    net = Recorder()
    out = net_score(net, VP())(x, t)
    assert out.dtype == x.dtype
    assert net.seen[0].dtype == x.dtype
    assert net.seen[1].dtype == torch.promote_types(dtype, torch.float32)
    torch.testing.assert_close(net.seen[1].double(), 999 * t.double(), rtol=1e-6, atol=0)
    exact = -x.sin().double() / VP().std(t.double())[:, None]
    # one rounding to x's dtype at the end; float32 also rounds the scaling, a few times
    torch.testing.assert_close(out.double(), exact, rtol=4 * torch.finfo(dtype).eps, atol=0)


def test_float64_time_does_not_promote_float32_data():
    score = net_score(Recorder(), VP())(torch.randn(3, 2), torch.full((3,), 0.4, dtype=torch.float64))
    assert score.dtype == torch.float32


def test_autocast_reaches_the_network_and_not_the_scalings():
    linear = nn.Linear(2, 2)
    seen = {}

    def net(x, label):
        seen["raw"], seen["label"] = linear(x), label
        return seen["raw"]

    x, t = torch.randn(6, 2), torch.linspace(1e-5, 1.0, 6)
    score = net_score(net, SubVP())
    with torch.autocast("cpu", dtype=torch.bfloat16):
        out = score(x, t)
    assert seen["raw"].dtype == torch.bfloat16
    assert seen["label"].dtype == out.dtype == torch.float32
    torch.testing.assert_close(out, -seen["raw"].float() / SubVP().std(t)[:, None], rtol=1e-6, atol=0)


def test_own_label_and_output_replace_the_authors():
    net = Recorder()
    score = net_score(net, Ito(lambda x, t: -x, lambda t: t), label=lambda t: 5 * t, out=lambda t: t)
    x, t = torch.randn(2, 1), torch.tensor([0.2, 0.4])
    torch.testing.assert_close(score(x, t), x.sin() * t[:, None])
    torch.testing.assert_close(net.seen[1], 5 * t)
    with pytest.raises(TypeError, match=r"noising: Ito has no transition kernel.*label= and out="):
        net_score(net, Ito(lambda x, t: -x, lambda t: t))


def test_parts_must_be_functions():
    with pytest.raises(TypeError, match="net: needs a function, got int"):
        NetScore(3, label=lambda t: t, out=lambda t: t)
    with pytest.raises(TypeError, match="label, out: both are needed"):
        NetScore(Recorder(), label=None, out=lambda t: t)


# --- four ways to say the same thing --------------------------------------------------------------------------------


@given(
    st.sampled_from(NOISINGS),
    st.floats(0.02, 1.0),
    st.sampled_from(PREDICTIONS),
    st.sampled_from(PREDICTIONS),
    st.sampled_from([(2,), (3, 4, 4)]),
    st.integers(0, 2**31),
)
def test_predictions_of_one_draw_agree(noising, share, source, target, shape, seed):
    """x = scale x0 + std noise fixes all four, by their definitions; any one gives the others and comes back."""
    g = torch.Generator().manual_seed(seed)
    t = torch.full((3,), share * noising.T, dtype=torch.float64)
    x0, noise = (torch.randn(3, *shape, generator=g, dtype=torch.float64) for _ in range(2))
    scale, std = float(noising.scale(t)[0]), float(noising.std(t)[0])
    x = scale * x0 + std * noise
    truth = {"score": -noise / std, "noise": noise, "x0": x0, "v": scale * noise - std * x0}
    got = convert(noising, truth[source], x, t, source=source, target=target)
    # x0 from the others divides by scale (VP: 0.0066 at t = 1), noise from x0 by std (0.01 for VE): errors grow by that much.
    slack = 1e-14 * (1 + std) / min(scale, std, 1.0) ** 2 * (1 + float(x.abs().max()))
    torch.testing.assert_close(got, truth[target], rtol=0, atol=slack)
    back = convert(noising, got, x, t, source=target, target=source)
    torch.testing.assert_close(back, truth[source], rtol=0, atol=100 * slack / min(scale, std, 1.0))


def test_as_score_wraps_a_predictor(generator):
    law, sde = Gaussian([0.5], 0.25), VP()
    x, t = torch.randn(7, 1, generator=generator, dtype=torch.float64), torch.linspace(0.1, 1, 7, dtype=torch.float64)
    exact = law.score_fn(sde)
    for prediction in PREDICTIONS:
        predict = lambda x, t, to=prediction: convert(sde, exact(x, t), x, t, source="score", target=to)
        torch.testing.assert_close(as_score(predict, sde, prediction=prediction)(x, t), exact(x, t), rtol=1e-9, atol=0)


@pytest.mark.parametrize("noising", NOISINGS, ids=repr)
@pytest.mark.parametrize("share", [0.1, 0.5, 1.0])
def test_denoised_is_the_posterior_mean(noising, share):
    """E[x0 given x] by Bayes' rule on a grid of x0: no score, no Tweedie. The grid's rule is exact to rounding."""
    t = torch.full((5,), share * noising.T, dtype=torch.float64)
    scale, std = float(noising.scale(t)[0]), float(noising.std(t)[0])
    x = torch.tensor([-1.0, -0.4, 0.1, 0.6, 1.3], dtype=torch.float64)[:, None] * (scale + std)
    x0 = torch.linspace(-6, 7, 40_001, dtype=torch.float64)
    joint = two_modes.log_prob(x0[:, None]) - 0.5 * ((x - scale * x0) / std) ** 2
    posterior = torch.softmax(joint, 1)
    expected = (posterior * x0).sum(1, keepdim=True)
    got = denoised(noising, two_modes.score_fn(noising), x, t)
    # x + std^2 score cancels down to scale x0: with VP at t = 1 that loses two digits, with VE at sigma 50 three.
    torch.testing.assert_close(got, expected, rtol=1e-9, atol=1e-9)


def test_at_time_zero_chains_and_vp_denoise_to_x_itself():
    x, t = torch.randn(4, 1, dtype=torch.float64), torch.zeros(4, dtype=torch.float64)
    for noising in (VP(), SubVP(), SMLD, DDPM):
        assert torch.equal(denoised(noising, lambda x, t: -x, x, t), x)


def test_conversions_refuse_nonsense():
    x, t = torch.zeros(2, 1), torch.ones(2)
    with pytest.raises(ValueError, match=r"source: needs one of 'score', 'noise', 'x0', 'v', got 'eps'"):
        convert(VP(), x, x, t, source="eps", target="x0")
    with pytest.raises(ValueError, match="target: needs one of"):
        convert(VP(), x, x, t, source="x0", target="mean")
    with pytest.raises(ValueError, match=r"value: needs the shape of x, \(2, 1\), got \(2,\)"):
        convert(VP(), x[:, 0], x, t, source="x0", target="v")
    with pytest.raises(TypeError, match="noising: needs scale and std, which Ito lacks"):
        denoised(Ito(lambda x, t: x, lambda t: t), lambda x, t: x, x, t)
    with pytest.raises(ValueError, match="prediction: needs one of"):
        as_score(lambda x, t: x, VP(), prediction="epsilon")


# --- gradients and sums ---------------------------------------------------------------------------------------------


def _log_prob(law, sde):
    return lambda x, t: law.at(sde, t[0]).log_prob(x)


@pytest.mark.parametrize("noising", [VE(), SubVP(), DDPM, Chain.from_sde(VP(), torch.linspace(0.1, 1, 10))], ids=repr)
@pytest.mark.parametrize("grad", [True, False])
def test_grad_of_is_the_exact_score(noising, grad, generator):
    law = GaussianMixture([1.0, 2.0], [[0.0, 1.0], [2.0, -1.0]], [[[1.0, 0.4], [0.4, 0.5]], [[0.2, 0.0], [0.0, 2.0]]])
    x, t = torch.randn(9, 2, generator=generator, dtype=torch.float64), torch.full((9,), 0.4, dtype=torch.float64)
    with torch.set_grad_enabled(grad):
        got = grad_of(_log_prob(law, noising))(x, t)
    assert got.requires_grad == grad
    assert not x.requires_grad
    torch.testing.assert_close(got.detach(), law.score_fn(noising)(x, t), rtol=0, atol=1e-10)


def test_grad_of_trains_through_parameters_and_through_x():
    """log p = -k |x|^2 / 2 gives score -k x: d/dk sum = -sum x, d/dx sum = -k."""
    k = torch.tensor(3.0, requires_grad=True)
    x = torch.tensor([[1.0, 2.0]], requires_grad=True)
    grad_of(lambda x, t: -0.5 * k * (x**2).sum(1))(x, torch.zeros(1)).sum().backward()
    assert k.grad.item() == -3.0
    assert x.grad.tolist() == [[-3.0, -3.0]]


def test_grad_of_refuses_what_has_no_gradient_an_item():
    with pytest.raises(ValueError, match=r"log_prob: needs one number an item, shape \(4,\), got \(\)"):
        grad_of(lambda x, t: (x**2).mean())(torch.ones(4, 2), torch.zeros(4))
    with torch.inference_mode(), pytest.raises(RuntimeError, match="inference_mode"):
        grad_of(lambda x, t: (x**2).sum(1))(torch.ones(4, 2), torch.zeros(4))


def test_guidance_turns_a_prior_into_a_posterior(generator):
    """Bayes' rule for Gaussians: N(0, 1) with an observation y = x + N(0, s^2) is N(y/(1 + s^2), s^2/(1 + s^2)) (eq. 14)."""
    y, s2 = 1.3, 0.4
    x, t = torch.randn(20, 1, generator=generator, dtype=torch.float64), torch.zeros(20)
    posterior = guided(lambda x, t: -x, grad_of(lambda x, t: -0.5 * ((y - x) ** 2).sum(1) / s2))
    exact = Gaussian([y / (1 + s2)], s2 / (1 + s2)).score(x)
    torch.testing.assert_close(posterior(x, t).detach(), exact, rtol=1e-12, atol=1e-12)


def test_guided_weighs_every_term():
    x, t = torch.ones(2, 3), torch.zeros(2)
    score = guided(lambda x, t: x, lambda x, t: 10 * x, lambda x, t: 100 * x, weight=2.0)
    assert torch.equal(score(x, t), 221 * x)
    assert torch.equal(guided(lambda x, t: x)(x, t), x)
    with pytest.raises(ValueError, match=r"terms\[1\]: needs the shape of x, \(2, 3\), got \(2,\)"):
        guided(lambda x, t: x, lambda x, t: x, lambda x, t: t)(x, t)
    with pytest.raises(TypeError, match="score, terms: need functions"):
        guided(lambda x, t: x, 3.0)
