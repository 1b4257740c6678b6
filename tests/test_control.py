"""Constraints, class guidance, and what both make, against exact posteriors."""

import itertools
import math

import pytest
import scipy.stats
import torch

from sdelib import (
    VE,
    VP,
    Chain,
    Gaussian,
    Ito,
    Stepped,
    SubVP,
    ancestral,
    classifier_loss,
    classifier_score,
    ddpm,
    flow,
    geometric_sigmas,
    grey_basis,
    guided,
    impose,
    linear_betas,
    mix,
    net_logits,
    net_score,
    observe,
    project,
    simulate,
    smld,
    time_grid,
)
from sdelib.models import MLP, Classifier
from tests.problems import CHAINS, SDES, gm2, name

f64 = torch.float64
NOISINGS = [*SDES[:3], SDES[4], *CHAINS]
each_noising = pytest.mark.parametrize("noising", NOISINGS, ids=name)


def gen(seed=0):
    return torch.Generator().manual_seed(seed)


def draw(*shape, seed=1, dtype=f64):
    return torch.randn(shape, generator=gen(seed), dtype=dtype)


# --- bases -------------------------------------------------------------------------------------------------------


def test_the_grey_basis():
    B = grey_basis()
    torch.testing.assert_close(B @ B.T, torch.eye(3, dtype=f64), rtol=0, atol=4e-16)
    x = draw(4, 3, 5, 6)
    u = mix(B, x)
    # Luminance is the mean of the channels, times sqrt(3); grey pictures have no other channel.
    torch.testing.assert_close(u[:, 0], math.sqrt(3) * x.mean(1), rtol=1e-14, atol=1e-15)
    assert float(mix(B, x[:, :1].expand_as(x))[:, 1:].abs().max()) < 1e-15
    torch.testing.assert_close(mix(B.mT, u), x, rtol=1e-14, atol=1e-15)
    assert mix(B, x.float()).dtype == torch.float32


def test_a_basis_of_channels_or_of_whole_items():
    B = torch.linalg.qr(draw(16, 16))[0]
    x = draw(3, 1, 4, 4)
    assert torch.equal(mix(B, x), (x.reshape(3, 16) @ B.T).reshape(3, 1, 4, 4))
    points = draw(5, 16)
    torch.testing.assert_close(mix(B, points), points @ B.T, rtol=1e-13, atol=1e-14)
    with pytest.raises(ValueError, match=r"basis: needs the length .* got \(16, 16\) for x of shape \(2, 3, 4\)"):
        mix(B, torch.zeros(2, 3, 4))


# --- constraints -------------------------------------------------------------------------------------------------


@each_noising
@pytest.mark.parametrize("dtype", [torch.float32, f64])
def test_the_known_part_is_a_draw_of_the_kernel_and_the_rest_is_left(noising, dtype):
    t = torch.tensor([0.0, 0.1, 0.5, 1.0], dtype=f64) * noising.T
    x, mean, y = (draw(4, 2, 3, seed=s, dtype=dtype) for s in (1, 2, 3))
    mask = torch.tensor([[True, False, True], [False, False, True]])
    out = observe(noising, y, mask)(Stepped(x, mean, t.to(dtype)), gen(7))
    z, time = torch.randn(x.shape, generator=gen(7), dtype=dtype), t.to(dtype).double()
    scale, std = (
        torch.where(t == 0, at_0, v(time)).to(dtype)[:, None, None]
        for at_0, v in ((1.0, noising.scale), (0.0, noising.std))
    )
    assert torch.equal(out.x[:, mask], (scale * y + std * z)[:, mask])
    assert torch.equal(out.mean[:, mask], (scale * y)[:, mask])
    assert torch.equal(out.x[:, ~mask], x[:, ~mask])
    assert torch.equal(out.mean[:, ~mask], mean[:, ~mask])
    assert torch.equal(out.x[0][mask], y[0][mask])  # at time 0 y itself, also for VE, whose std(0) is sigma_min
    assert out.t is not None
    assert out.x.dtype == out.mean.dtype == dtype


def test_masks_broadcast():
    sde, x, t = VP(), draw(2, 3, 4, 4), torch.full((2,), 0.3, dtype=f64)
    y = draw(2, 3, 4, 4, seed=2)
    stepped = Stepped(x, x, t)
    full = torch.zeros(2, 3, 4, 4)
    full[..., :2] = 1
    for mask in (
        full,
        full[0],
        full[:1, :1],
        full[0, 0],
        full[0, 0, 0],
        full.bool(),
        full.long(),
        full[0, 0].numpy().tolist(),
    ):
        mask = torch.as_tensor(mask)
        assert torch.equal(observe(sde, y, mask)(stepped, gen()).x, observe(sde, y, full)(stepped, gen()).x)
    one = observe(sde, y[0], full[0])(stepped, gen()).x
    assert torch.equal(one, observe(sde, y[:1].expand_as(y), full)(stepped, gen()).x)


def test_grey_is_kept_and_colour_is_not_touched():
    sde, x, mean, y = VE(), draw(3, 3, 4, 4), draw(3, 3, 4, 4, seed=2), draw(3, 3, 4, 4, seed=3)
    grey, B = torch.tensor([1, 0, 0]).reshape(3, 1, 1), grey_basis()
    t = torch.tensor([0.0, 0.2, 0.2], dtype=f64)
    out = observe(sde, y, grey, B)(Stepped(x, mean, t), gen())
    # One rounding each way of a 3 x 3 product.
    torch.testing.assert_close(out.x[0].mean(0), y[0].mean(0), rtol=0, atol=1e-15)
    torch.testing.assert_close(out.mean.mean(1), y.mean(1), rtol=0, atol=1e-15)
    torch.testing.assert_close(mix(B, out.x)[:, 1:], mix(B, x)[:, 1:], rtol=0, atol=4e-15)
    torch.testing.assert_close(mix(B, out.mean)[:, 1:], mix(B, mean)[:, 1:], rtol=0, atol=4e-15)
    # A grey picture of one channel says the same as its colours' mean.
    same = observe(sde, y.mean(1, keepdim=True), grey, B)(Stepped(x, mean, t), gen())
    torch.testing.assert_close(same.x, out.x, rtol=0, atol=4e-15)
    # The noise in the grey channel is the kernel's, sigma(t) in size.
    many = observe(sde, y[:1], grey, B)(
        Stepped(x[:1].expand(5000, 3, 4, 4), x[:1].expand(5000, 3, 4, 4), t[1:2].expand(5000)), gen()
    )
    z = (mix(B, many.x)[:, 0] - mix(B, y)[:1, 0]) / float(sde.std(t[1]))
    assert scipy.stats.kstest(z.flatten().numpy(), "norm").pvalue > 1e-3  # fixed seed


def test_a_picture_from_means_of_blocks():
    """A basis of the flattened item whose first rows are means of 2 x 2 blocks: those means are kept, whatever else is drawn."""
    blocks = torch.nn.functional.avg_pool2d(torch.eye(64, dtype=f64).reshape(64, 1, 8, 8), 2).reshape(64, 16).T
    basis = torch.linalg.qr(torch.cat([blocks, draw(48, 64)]).T)[
        0
    ].T  # rows 1 to 16 are the blocks, up to sign and length
    mask = (torch.arange(64) < 16).reshape(1, 8, 8)
    sde, y = VP(), draw(2, 1, 8, 8, seed=5)
    step = project(ancestral(sde, lambda x, t: -x), observe(sde, y, mask, basis))
    x = simulate(
        step,
        sde.prior_sample((2, 1, 8, 8), generator=gen(), dtype=f64),
        time_grid(5, t_min=0.1),
        generator=gen(),
        denoise=True,
    ).x
    pool = torch.nn.functional.avg_pool2d
    torch.testing.assert_close(pool(x, 2), pool(y, 2), rtol=0, atol=1e-13)
    assert float((x - y).abs().max()) > 0.5


def test_where_sampling_begins():
    sde, y = VE(), torch.tensor([7.0, math.nan])
    mask = torch.tensor([1, 0])
    known = observe(sde, y, mask)  # what is unknown may be anything
    n = 20_000
    x = sde.prior_sample((n, 2), generator=gen(), dtype=f64)
    start = impose(known, x, sde.T, generator=gen(1))
    assert torch.equal(start[:, 1], x[:, 1])
    assert scipy.stats.kstest(start[:, 0].numpy(), "norm", (7.0, 50.0)).pvalue > 1e-3  # fixed seed
    assert torch.equal(impose(known, x[:2], torch.zeros(2))[:, 0], torch.tensor([7.0, 7.0], dtype=f64))
    with pytest.raises(ValueError, match=r"t: needs one time, or one time an item, shape \(2,\), got \(3,\)"):
        impose(known, x[:2], torch.zeros(3))


@pytest.mark.usefixtures("untouched")
def test_same_generator_same_draw():
    known = observe(VP(), torch.zeros(2), torch.ones(2))
    one, two = (impose(known, torch.zeros(3, 2), 0.5, generator=gen(4)) for _ in range(2))
    assert torch.equal(one, two)
    assert float(one.abs().min()) > 0


# --- classes -----------------------------------------------------------------------------------------------------


@each_noising
def test_guidance_by_the_exact_classifier_is_the_components_own_score(noising):
    law, n = gm2(), 30
    t = torch.tensor([0.04, 0.1, 0.3, 0.6, 1.0], dtype=f64).repeat(n // 5) * noising.T
    x = draw(n, 2) * (noising.scale(t) ** 2 + noising.std(t) ** 2).sqrt()[:, None]
    for k in range(3):
        own = law.part(k).score_fn(noising)(x, t)
        with torch.no_grad():
            got = guided(law.score_fn(noising), classifier_score(law.classifier(noising), k))(x, t)
        assert not got.requires_grad
        # Rounding of scores of other components, which cancel: up to 1/variance times the distance.
        torch.testing.assert_close(got, own, rtol=1e-10, atol=1e-11 * float(1 + own.abs().max()))
    y = torch.arange(n) % 3
    mixed = classifier_score(law.classifier(noising), y)(x, t)
    for k in range(3):
        torch.testing.assert_close(
            mixed[y == k], classifier_score(law.classifier(noising), k)(x[y == k], t[y == k]), rtol=1e-10, atol=1e-10
        )


def test_purity_is_bayes_posterior(generator):
    """Of samples guided to class k, how sure are we that they are of it? As sure as of draws from component k."""
    sde, law, n, k = VP(), gm2(), 5_000, 2
    score = guided(law.score_fn(sde), classifier_score(law.classifier(sde), k))
    step = ancestral(sde, score, variance="forward")
    x = simulate(
        step,
        sde.prior_sample((n, 2), generator=generator, dtype=f64),
        time_grid(100, t_min=1e-3),
        generator=generator,
        denoise=True,
    ).x
    truth = law.responsibilities(law.part(k).sample(100_000, generator=generator))[:, k]
    got = law.responsibilities(x)[:, k]
    error = float(truth.std()) / math.sqrt(n)
    assert float(got.mean()) == pytest.approx(float(truth.mean()), abs=4 * error + 2e-3)  # 100 steps' own error
    # By Bayes' rule the mean posterior of class k among all data, weighted, is its share.
    everything = law.responsibilities(law.sample(100_000, generator=generator)).mean(0)
    torch.testing.assert_close(everything, law.weights, rtol=0, atol=4e-3)


def test_imputation_by_exact_guidance_is_the_exact_posterior():
    """Along the flow, which has no noise: normal codes go to the posterior's quantiles, on correlation 0.8 and y = 1.5."""
    sde = VP()
    pair = Gaussian(torch.zeros(2, dtype=f64), torch.tensor([[1.0, 0.8], [0.8, 1.0]], dtype=f64))
    post = pair.given([[1.0, 0.0]], [1.5])
    torch.testing.assert_close(post.mean, torch.tensor([1.5, 1.2], dtype=f64), rtol=1e-15, atol=0)
    torch.testing.assert_close(post.cov, torch.tensor([[0.0, 0.0], [0.0, 0.36]], dtype=f64), rtol=1e-14, atol=1e-16)
    z = torch.tensor([[0.0, -1.0], [0.0, 0.0], [0.0, 1.0]], dtype=f64)
    late = post.at(sde, 1.0)
    x1 = late.mean + z * late.cov.diagonal().sqrt()
    x = flow(sde, post.score_fn(sde), x1, 1.0, 1e-5, rtol=1e-8, atol=1e-9).x
    # t = 1e-5 shrinks by exp(-5e-7) and adds variance 1e-6.
    torch.testing.assert_close(x, torch.tensor([1.5, 1.2], dtype=f64) + 0.6 * z, rtol=0, atol=1e-5)


@pytest.mark.parametrize("noising", [VP(), smld(geometric_sigmas(20))], ids=name)
def test_networks_in_eval_mode_under_no_grad(noising):
    net = Classifier(
        image_size=8, in_channels=1, channels=8, multipliers=(1, 2), blocks=1, time_channels=8, generator=gen()
    )
    with torch.no_grad():
        for p in net.parameters():
            p.copy_(0.3 * torch.randn(p.shape, generator=gen(7)))
    logits = net_logits(net.double().eval(), noising)
    x, t, y = draw(3, 1, 8, 8), torch.tensor([0.1, 0.5, 1.0], dtype=f64), torch.tensor([0, 9, 3])
    with torch.no_grad():
        got = classifier_score(logits, y)(x, t)
    h = 1e-5
    for i, pixel in itertools.product(range(3), ((0, 0), (3, 5), (7, 7))):
        moved = x.clone().repeat(2, 1, 1, 1)[[i, i + 3]]
        moved[0, 0, *pixel] += h
        moved[1, 0, *pixel] -= h
        with torch.no_grad():
            up, down = torch.log_softmax(logits(moved, t[[i, i]]), 1)[:, y[i]]
        # Central differences: h^2 of truncation, 1e-16 / h of rounding.
        assert float(got[i, 0, *pixel]) == pytest.approx(float(up - down) / (2 * h), rel=1e-5, abs=1e-8)
    assert all(p.grad is None for p in net.parameters())
    step = ancestral(
        noising,
        guided(
            net_score(MLP((1, 8, 8), hidden=8, depth=1, generator=gen()).double(), noising), classifier_score(logits, y)
        ),
    )
    assert not simulate(step, x, [1.0, 0.5, 0.0], generator=gen()).x.requires_grad


@each_noising
def test_the_loss_is_the_cross_entropy_of_the_exact_classifier(noising):
    law, n = gm2(), 40_000
    u = torch.rand(n, generator=gen(), dtype=f64)
    y = torch.searchsorted(law.weights.cumsum(0)[:-1], u, right=True)
    x0 = torch.stack([law.part(k).sample(n, generator=gen(k), dtype=f64) for k in range(3)])[y, torch.arange(n)]
    t = torch.full((n,), 0.4 * noising.T, dtype=f64)
    z = draw(n, 2, seed=9)
    loss = classifier_loss(noising, law.classifier(noising), x0, y, t=t, noise=z)
    r = law.at(noising, float(t[0])).responsibilities(noising.perturb(x0, t, z))
    torch.testing.assert_close(loss, -r.gather(1, y[:, None])[:, 0].log(), rtol=1e-8, atol=1e-9)
    # The least it can be: the mean entropy of the posterior, in nats.
    entropy = torch.special.entr(r).sum(1)
    assert float((loss - entropy).mean()) == pytest.approx(
        0.0, abs=4 * float((loss - entropy).std()) / math.sqrt(n) + 1e-12
    )


@pytest.mark.usefixtures("untouched")
def test_the_loss_draws_times_then_noise():
    law, sde = gm2(), VP()
    x0, y = law.sample(6, generator=gen()), torch.tensor([0, 1, 2, 0, 1, 2])
    loss = classifier_loss(sde, law.classifier(sde), x0, y, t_min=0.1, generator=gen(3))
    g = gen(3)
    t = sde.sample_time(6, t_min=0.1, generator=g, dtype=f64)
    z = torch.randn(6, 2, dtype=f64, generator=g)
    assert torch.equal(loss, classifier_loss(sde, law.classifier(sde), x0, y, t=t, noise=z))
    # At the end of VE nothing is left of the class but its share: log 3 for three equal logits.
    flat = classifier_loss(VE(), lambda x, t: 0 * x[:, :1].expand(-1, 3), x0, y, generator=gen())
    torch.testing.assert_close(flat, torch.full((6,), math.log(3.0), dtype=f64), rtol=1e-14, atol=0)


def test_a_chain_of_few_levels_takes_them_all():
    chain = Chain.from_sde(VP(), torch.linspace(0.1, 1.0, 10))
    seen = set()

    def classify(x, t):
        seen.update(torch.round(t * 10).long().tolist())
        return torch.zeros(len(x), 2)

    classifier_loss(chain, classify, torch.zeros(500, 2), torch.zeros(500, dtype=torch.long), generator=gen())
    assert seen == set(range(1, 11))


X, T = torch.zeros(4, 2), torch.full((4,), 0.5)
CLASSIFY = gm2().classifier(VP())
ONE = torch.ones(2)


def held(y=ONE, mask=ONE, basis=None, x=X):
    return lambda: observe(VP(), y, mask, basis)(Stepped(x, x, T[: len(x)]), None)


@pytest.mark.parametrize(
    "make, error, message",
    [
        (lambda: observe(Ito(lambda x, t: x, lambda t: t), ONE, ONE), TypeError, "noising: needs a kernel .* Ito lacks"),
        (held(y=[1.0]), TypeError, "y: needs a torch.Tensor that broadcasts to x, got list"),
        (held(mask=True), TypeError, "mask: needs a torch.Tensor .* got bool"),
        (held(mask=torch.tensor([0.5, 1.0])), ValueError, "mask: needs True or 1 .* got 0.5"),
        (held(mask=torch.tensor([math.nan, 1.0])), ValueError, "mask: needs True or 1 .* got nan"),
        (held(mask=torch.ones(3)), ValueError, r"mask: needs a shape that broadcasts with y's, \(2,\), got \(3,\)"),
        (held(mask=torch.ones(3, 1)), ValueError, r"mask: needs a shape that broadcasts to x's, \(4, 2\), got \(3, 1\)"),
        (held(y=torch.zeros(3, 1)), ValueError, r"y: needs a shape that broadcasts to x's, \(4, 2\), got \(3, 1\)"),
        (held(mask=torch.ones(1, 1, 2)), ValueError, r"mask: needs a shape that broadcasts to x's"),
        (held(y=torch.tensor([math.nan, 1.0])), ValueError, "y: needs finite values where it is known, .* in 1 places"),
        (held(basis=torch.ones(2, 2)), ValueError, "basis: needs orthonormal rows, got products that differ .* by 2"),
        (held(basis=torch.ones(2)), ValueError, r"basis: needs a square matrix .* got \(2,\)"),
        (held(basis=torch.eye(3)), ValueError, r"basis: needs the length of x's channel axis or of its items"),
        (lambda: classifier_score(3, 0), TypeError, r"classifier: needs a function of \(x, t\), got int"),
        (lambda: classifier_score(CLASSIFY, 1.0), TypeError, "y: needs integers, a class for each item, got torch.float32"),
        (lambda: classifier_score(CLASSIFY, True), TypeError, "y: needs integers, .* got torch.bool"),
        (lambda: classifier_score(CLASSIFY, -1), ValueError, "y: needs classes counted from 0, got -1"),
        (lambda: classifier_score(CLASSIFY, 3)(X, T), ValueError, "y: needs classes from 0 to 2, .* got 3"),
        (lambda: classifier_score(CLASSIFY, torch.tensor([0, 1]))(X, T), ValueError, r"y: needs one class an item, shape \(4,\)"),
        (lambda: classifier_score(CLASSIFY, torch.zeros(4, 1, dtype=torch.long)), ValueError, r"y: .* got \(4, 1\)"),
        (lambda: classifier_score(lambda x, t: x[:, 0], 0)(X, T), ValueError, r"classifier: needs logits .* got \(4,\) for 4"),
        (lambda: classifier_loss(VP(), CLASSIFY, X, torch.tensor([0, 1, 2, 5])), ValueError, "y: .* from 0 to 2, .* got 5"),
        (lambda: classifier_loss(VP(), CLASSIFY, X, torch.zeros(3, dtype=torch.long)), ValueError, r"y: .* \(4,\), got \(3,\)"),
        (lambda: classifier_loss(VP(), CLASSIFY, X, 0, t=T + 1), ValueError, r"t: needs times in \[0, 1\]"),
        (lambda: classifier_loss(VP(), CLASSIFY, X, 0, t_min=-0.1), ValueError, "t_min: needs 0 <= t_min < T"),
        (lambda: classifier_loss(VP(), CLASSIFY, X, 0, noise=X[:2]), ValueError, r"noise: needs the shape of x0, \(4, 2\)"),
        (lambda: classifier_loss(Ito(lambda x, t: x, lambda t: t), CLASSIFY, X, 0), TypeError, "noising: .* Ito lacks"),
    ],
)  # fmt: skip
def test_bad_input_is_refused(make, error, message):
    with pytest.raises(error, match=message):
        make()


def test_sub_vp_and_ddpm_end_on_what_is_known():
    for noising in (SubVP(), ddpm(linear_betas(50))):
        known = observe(noising, torch.tensor([0.7, 0.0], dtype=f64), torch.tensor([1, 0]))
        times = noising.times() if isinstance(noising, Chain) else time_grid(20, t_min=1e-3)
        x = impose(known, noising.prior_sample((4, 2), generator=gen(), dtype=f64), noising.T, generator=gen())
        out = simulate(project(ancestral(noising, gm2().score_fn(noising)), known), x, times, generator=gen()).x
        assert torch.equal(out[:, 0], torch.full((4,), 0.7, dtype=f64))
