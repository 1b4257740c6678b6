"""The classifier of noisy images, and its scalings: its size, its symmetries, what it learns, what it hands to guidance."""

import math

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from sdelib import VE, VP, Gaussian, Ito, NetLogits, SubVP, grad_of, guided, net_logits, randn_like
from sdelib import data as datasets
from sdelib.chain import ddpm, geometric_sigmas, linear_betas, smld
from sdelib.models import Classifier, wide_resnet
from sdelib.models.blocks import ResBlock
from sdelib.train import TrainConfig, new_state, train
from tests.slow_unet import Weights, along_both, down_matrix, features, normed, residual_block, silu

SMALL = {"image_size": 8, "in_channels": 1, "channels": 8, "multipliers": (1, 2), "blocks": 1, "time_channels": 8}


def gen(seed=0):
    return torch.Generator().manual_seed(seed)


def draw(*shape, seed=1, dtype=torch.float64):
    return torch.randn(shape, generator=gen(seed), dtype=dtype)


def spoken(**changes):
    """A small one in float64, with weights of which none is silent."""
    net, generator = Classifier(**SMALL | changes, generator=gen()), gen(7)
    with torch.no_grad():
        for parameter in net.parameters():
            parameter.copy_(0.3 * torch.randn(parameter.shape, generator=generator))
    return net.double().eval()


LABEL = torch.tensor([-4.6, 0.5, 3.9], dtype=torch.float64)


# --- the network ---------------------------------------------------------------------------------------------------


def test_the_papers_is_a_wide_resnet_28_10():
    """36,479,194 parameters without what hears the time and without convolutions' biases (Zagoruyko & Komodakis 2016: 36.5M).

    By hand, for CIFAR-10: 3 x 3 convolutions, one of 3 -> 16, then two in each of four blocks of width 160, 320, 640, the first
    from the width before; a 1 x 1 shortcut there; two numbers a channel for each normalisation; a dense layer.
    """
    by_hand, before = 9 * 3 * 16, 16
    for width in (160, 320, 640):
        by_hand += 9 * before * width + 7 * 9 * width**2 + before * width  # convolutions and shortcut
        by_hand += 2 * (before + 7 * width)  # normalisations
        before = width
    by_hand += 2 * 640 + 640 * 10 + 10
    assert by_hand == 36_479_194
    with torch.device("meta"):
        net = wide_resnet()
        assert net(torch.zeros(2, 3, 32, 32), torch.zeros(2)).shape == (2, 10)
    hears = sum(p.numel() for name, p in net.named_parameters() if name.startswith("embed") or ".dense." in name)
    biases = sum(m.bias.numel() for m in net.modules() if isinstance(m, nn.Conv2d))
    assert hears == 256 * 512 + 512 + 512**2 + 512 + 513 * 4 * (160 + 320 + 640)
    assert sum(p.numel() for p in net.parameters()) - hears - biases == by_hand
    assert (
        len([m for m in net.modules() if isinstance(m, ResBlock)]) == 3 * 4
    )  # depth 28 = 6 n + 4 has n = 4 blocks a width
    assert net.embed.features.frequencies.shape == (128,)


@pytest.mark.parametrize(
    "changes", [{}, {"rescale": True, "fir": (1, 3, 3, 1), "time": "positional", "multipliers": (1, 2, 3)}]
)
def test_it_is_the_slow_one(changes):
    """Blocks of the slow U-Net in a row, means over pixels, one product."""
    net, x = spoken(**changes), draw(3, 1, 8, 8)
    theirs = {"norm0": "GroupNorm_0", "conv0": "Conv_0", "dense": "Dense_0", "norm1": "GroupNorm_1", "conv1": "Conv_1"}
    theirs |= {"shortcut": "Conv_2"}
    own = dict(net.named_parameters()) | {"0.W": getattr(net.embed.features, "frequencies", None)}
    temb, _ = features(Weights(own), LABEL, 8, "positional" if changes else "fourier")
    for i in (0, 1):
        temb = temb @ own[f"embed.dense{i}.weight"].T + own[f"embed.dense{i}.bias"]
        temb = silu(temb)
    h = F.conv2d(x, own["first.weight"], own["first.bias"], padding=1)
    for level, stage in enumerate(net.levels):
        names = {
            f"levels.{level}.0.{ours}.{kind}": f"{source}.{kind}"
            for ours, source in theirs.items()
            for kind in ("weight", "bias")
        }
        given = Weights({names[name]: value for name, value in own.items() if name in names})
        taps = changes.get("fir")
        shrink = (lambda x, taps=taps: along_both(down_matrix(x.shape[-1], taps), x)) if level else None
        assert len(stage) == 1
        h = residual_block(given, h, temb, rescale=changes.get("rescale", False), resample=shrink)
    h = silu(normed(h, own["norm.weight"], own["norm.bias"], h.shape[1] // 4)).mean((2, 3))
    expected = h @ own["last.weight"].T + own["last.bias"]
    torch.testing.assert_close(net(x, LABEL), expected, rtol=1e-10, atol=1e-10)


@pytest.mark.usefixtures("untouched")
def test_same_generator_same_network():
    one, two, other = (Classifier(**SMALL, generator=gen(seed)) for seed in (0, 0, 1))
    x, label = draw(3, 1, 8, 8, dtype=torch.float32), LABEL.float()
    assert torch.equal(one(x, label), two(x, label))
    assert not torch.equal(one(x, label), other(x, label))


def test_gradients_neighbours_layout():
    net, x = spoken(), draw(3, 1, 8, 8)
    logits = net(x, LABEL)
    F.cross_entropy(logits, torch.tensor([0, 4, 9])).backward()
    assert not [name for name, p in net.named_parameters() if p.grad is None or not p.grad.abs().max() > 1e-9]
    alone = torch.cat([net(x[i : i + 1], LABEL[i : i + 1]) for i in range(3)])
    torch.testing.assert_close(alone, logits, rtol=1e-11, atol=1e-11)  # another order of summation
    torch.testing.assert_close(
        net(x.contiguous(memory_format=torch.channels_last), LABEL), logits, rtol=1e-12, atol=1e-12
    )
    assert (net(x, LABEL.flip(0)) - logits).abs().max() > 1e-2  # it hears the label


def test_any_shape():
    for changes in (
        {"image_size": 1, "multipliers": (1,)},
        {"in_channels": 3, "channels": 3},
        {"classes": 1, "blocks": 2},
    ):
        net = spoken(**changes)
        y = net(draw(2, net.in_channels, net.image_size, net.image_size), LABEL[:2])
        assert y.shape == (2, changes.get("classes", 10))


@pytest.mark.parametrize("argument, value, error, message", [
    ("image_size", 9, ValueError, "needs a multiple of 2 for 2 levels, got 9"),
    ("in_channels", 0, ValueError, "needs a whole number of channels, at least 1, got 0"),
    ("classes", 0, ValueError, "needs a whole number of classes, at least 1, got 0"),
    ("channels", 1.5, ValueError, "got 1.5"),
    ("multipliers", 2, TypeError, r"needs whole numbers in a row, such as \(1, 2\), got 2"),
    ("multipliers", (), ValueError, "needs at least one level"),
    ("blocks", None, ValueError, "needs a whole number of blocks, at least 1, got None"),
    ("dropout", -0.1, ValueError, r"needs a number in \[0, 1\), got -0.1"),
    ("fir", (1, 2, 1), ValueError, "needs an even number of finite taps"),
    ("rescale", 1, TypeError, "needs True or False, got 1"),
    ("time", "sigma", ValueError, "needs one of 'fourier', 'positional', got 'sigma'"),
    ("time_channels", 1, ValueError, "needs at least 2, got 1"),
    ("fourier_scale", -1, ValueError, "needs a finite number above 0, got -1"),
    ("generator", 3, TypeError, "needs a torch.Generator or None, got int"),
])  # fmt: skip
def test_bad_arguments_are_refused(argument, value, error, message):
    with pytest.raises(error, match=f"^{argument}: .*{message}"):
        Classifier(**SMALL | {argument: value})


def test_bad_calls_are_refused():
    net = Classifier(**SMALL)
    with pytest.raises(ValueError, match=r"x: needs shape \(batch, 1, 8, 8\), got \(2, 3, 8, 8\)"):
        net(torch.zeros(2, 3, 8, 8), torch.zeros(2))
    with pytest.raises(ValueError, match=r"label: needs one number an item, shape \(2,\), got \(1,\)"):
        net(torch.zeros(2, 1, 8, 8), torch.zeros(1))


# --- its scalings --------------------------------------------------------------------------------------------------


class Recorder(nn.Module):
    """Remembers what it was given, and says two numbers an item."""

    def forward(self, x, label):
        self.seen = (x, label)
        return torch.stack([x.flatten(1).sum(1), label.to(x.dtype)], 1)


def by_hand(sde, t):
    """(label, size of the input) from the equations' parameters."""
    if isinstance(sde, VE):
        sigma = 0.01 * 5000.0**t
        return math.log(sigma), math.sqrt(1 + sigma**2)
    B = 0.1 * t + 0.5 * 19.9 * t * t
    std = 1 - math.exp(-B) if isinstance(sde, SubVP) else math.sqrt(1 - math.exp(-B))
    return 999 * t, math.sqrt(math.exp(-B) + std**2)


@pytest.mark.parametrize("sde", [VE(), VP(), SubVP()], ids=lambda sde: type(sde).__name__)
def test_label_and_size_of_what_the_network_sees(sde):
    net, x, t = Recorder(), draw(4, 2, 3), torch.tensor([0.01, 0.3, 0.7, 1.0], dtype=torch.float64)
    logits = net_logits(net, sde)(x, t)
    for i, ti in enumerate(t.tolist()):
        label, size = by_hand(sde, ti)
        assert float(net.seen[1][i]) == pytest.approx(label, rel=1e-12)
        torch.testing.assert_close(net.seen[0][i], x[i] / size, rtol=1e-12, atol=1e-12)
    assert torch.equal(logits, net(*net.seen))


def test_of_size_one_at_every_time():
    """Data of variance 1 keep it on the way in, for chains too: 20,000 numbers, relative standard error of a variance 1 %."""
    x0, t = draw(20_000, 1), torch.linspace(0.05, 1.0, 8)
    for noising in (VE(), VP(), SubVP(), smld(geometric_sigmas(20)), ddpm(linear_betas(20, beta_max=10.0))):
        for ti in t:
            times = ti.expand(len(x0))
            net = Recorder()
            net_logits(net, noising)(noising.perturb(x0, times, draw(20_000, 1, seed=2)), times)
            assert float(net.seen[0].var()) == pytest.approx(1.0, abs=0.04)


def test_own_scalings_and_precision():
    """Given label and input are used; under autocast the label stays in float32, and logits come out in it."""
    net, t = Recorder(), torch.tensor([0.2, 0.7])
    classifier = net_logits(net, VP(), label=lambda t: 5 * t, inp=lambda x, t: x + t[:, None])
    x = draw(2, 3, dtype=torch.float32)
    classifier(x, t)
    torch.testing.assert_close(net.seen[0], x + t[:, None])
    torch.testing.assert_close(net.seen[1], 5 * t)
    small = net_logits(Classifier(**SMALL, generator=gen()), VE())
    x = draw(2, 1, 8, 8, dtype=torch.float32)
    exact = small(x, t)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        logits = small(x, t)
    assert logits.dtype == torch.float32
    assert (logits - exact).abs().max() < 0.05 * exact.abs().max()  # bfloat16 has eight bits; measured: 0.01


def test_what_has_no_kernel_or_cannot_be_called():
    well = Ito(lambda x, t: x - x**3, lambda t: torch.ones_like(t))
    with pytest.raises(
        TypeError, match=r"noising: Ito has no transition kernel to take a scaling from; give label= and inp="
    ):
        net_logits(Recorder(), well, label=lambda t: t)
    net_logits(Recorder(), well, label=lambda t: t, inp=lambda x, t: x)(draw(2, 3), torch.ones(2))
    with pytest.raises(TypeError, match="net: needs a function, got the class Recorder; an instance is made by"):
        net_logits(Recorder, VP())
    with pytest.raises(TypeError, match="label: needs a function, got NoneType"):
        NetLogits(Recorder(), label=None)
    with pytest.raises(TypeError, match="inp: needs a function, got float"):
        NetLogits(Recorder(), label=lambda t: t, inp=2.0)


# --- what it is for ------------------------------------------------------------------------------------------------


def test_bayes_rule_with_exact_logits():
    """Two Gaussian classes: prior score plus the gradient of the exact posterior is the score of the class (paper eq. 14)."""
    sde, t = VP(), torch.full((5,), 0.3, dtype=torch.float64)
    laws = [Gaussian([-1.0, 0.5], 0.3), Gaussian([1.5, 0.0], 0.8)]
    at = [law.at(sde, 0.3) for law in laws]
    classifier = NetLogits(lambda x, label: torch.stack([law.log_prob(x) for law in at], 1), label=lambda t: t)
    x, y = draw(5, 2), torch.tensor([0, 1, 1, 0, 1])
    term = grad_of(lambda x, t: classifier(x, t).log_softmax(1).gather(1, y[:, None])[:, 0])
    mixture = grad_of(lambda x, t: torch.logsumexp(classifier(x, t) - math.log(2), 1))
    expected = torch.stack([at[c].score(x[i : i + 1])[0] for i, c in enumerate(y.tolist())])
    torch.testing.assert_close(guided(mixture, term)(x, t), expected, rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize("sde", [VE(sigma_max=20.0), VP()], ids=lambda sde: type(sde).__name__)
def test_it_learns_to_read_noisy_digits(sde):
    """From ln 10 of knowing nothing; clear digits better than noisy ones, and at t = T nobody can know (10 % by chance)."""
    clear, test = (datasets.digits(data_range=(-1.0, 1.0), split=split) for split in ("train", "test"))
    generator = gen()
    time = "fourier" if isinstance(sde, VE) else "positional"
    net = Classifier(**SMALL | {"channels": 16, "time": time, "fourier_scale": 1.0}, generator=generator)

    def cross_entropy(classifier, chosen, generator):
        x0 = clear.images[chosen]
        t = sde.sample_time(len(x0), t_min=1e-3, generator=generator)
        return F.cross_entropy(
            classifier(sde.perturb(x0, t, randn_like(x0, generator)), t), clear.labels[chosen], reduction="none"
        )

    def chosen():
        while True:
            yield torch.randint(len(clear.images), (64,), generator=generator)

    cfg = TrainConfig(steps=80, lr=3e-3, warmup=5, log_every=10, ema_decay=0.9)
    state = new_state(net_logits(net, sde), cfg, generator=generator)
    losses = [metrics.loss for metrics in train(state, cross_entropy, chosen(), cfg)]
    assert losses[0] == pytest.approx(math.log(10), abs=0.2)
    assert losses[-1] < losses[0] - 0.2  # measured: 0.78 for VE, whose noise is small half of the time, and 0.28 for VP

    def read(t):
        times = torch.full((len(test.images),), t)
        with torch.no_grad():
            logits = state.net(sde.perturb(test.images, times, randn_like(test.images, generator)), times)
        return float((logits.argmax(1) == test.labels).float().mean())

    assert read(0.01) > 0.5  # measured: 0.87 and 0.73
    assert read(1.0) < 0.25  # chance, and what remains of a digit under noise of 20
