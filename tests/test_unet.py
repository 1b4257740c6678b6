"""The U-Net: every combination of its arguments against a slow one, what keeps its variance, its symmetries, its derivatives.

Numbers of the authors' networks stand in test_golden.py; what a filter does to a picture in test_fir.py.
"""

import copy
import itertools
import math

import pytest
import torch

from sdelib import SubVP, divergence, net_score, value_and_divergence
from sdelib.checkpoint import Checkpoint, authors_layout, converted
from sdelib.models import UNet, ddpm_unet, ddpmpp, ncsnpp, published
from sdelib.models.blocks import Attention, ResBlock
from sdelib.models.layers import FourierTime, SinusoidalTime, norm
from tests import slow_unet as slow

SMALL = {"image_size": 8, "in_channels": 2, "channels": 4, "multipliers": (1, 2), "blocks": 1, "attention_at": (4,)}
SMALL |= {"dropout": 0.0}


def gen(seed=0):
    return torch.Generator().manual_seed(seed)


def draw(*shape, seed=1, dtype=torch.float64):
    return torch.randn(shape, generator=gen(seed), dtype=dtype)


def spoken(net, size=0.3):
    """``net`` in float64, with weights of which none is silent."""
    generator = gen(7)
    with torch.no_grad():
        for parameter in net.parameters():
            parameter.copy_(size * torch.randn(parameter.shape, generator=generator))
    return net.double().eval()


def small(**changes):
    return spoken(UNet(**SMALL | {"generator": gen()} | changes))


def batch(net, items=2, dtype=torch.float64):
    """Images, and labels as the network's features like them."""
    ends = (-4.6, 3.9) if isinstance(net.embed.features, FourierTime) else (0.0, 731.0)
    x = draw(items, net.in_channels, net.image_size, net.image_size).to(dtype)
    return x, torch.linspace(*ends, items, dtype=dtype)


# --- every combination ---------------------------------------------------------------------------------------------

WAYS = [
    {"progressive_in": into, "combine": combine, "progressive_out": out, "block": block, "fir": fir, "time": time, "rescale": r}
    for (into, combine), out, block, (fir, time, r) in itertools.product(
        (("none", "sum"), ("residual", "sum"), ("skip", "sum"), ("skip", "cat")),
        ("none", "residual", "skip"),
        ("biggan", "ddpm"),
        (((1, 3, 3, 1), "fourier", True), ((1, 2, 3, 2), "positional", False), (None, "positional", True),
         (None, "fourier", False)),
    )
]  # fmt: skip


def label_of(way):
    return "-".join(map(str, way.values()))


@pytest.mark.parametrize("way", WAYS, ids=label_of)
def test_every_combination_is_the_slow_network(way):
    """The slow one counts modules as the authors' code does, so this holds their names for all options at once.

    All of the file's tensors are used, and each of ours has a gradient.
    """
    net = UNet(**SMALL | way).double().eval()
    shapes = {name: value.shape for name, value in net.state_dict().items()}
    theirs, generator = {}, gen()
    for entry in authors_layout(net):
        out, *rest = shapes[entry.name]
        shape = (rest[0], out // len(entry.sources)) if entry.nin else (out // len(entry.sources), *rest)
        for source in entry.sources:
            theirs[source] = 0.3 * torch.randn(shape, generator=generator, dtype=torch.float64)
    net.load_state_dict(converted(net, Checkpoint(theirs, None, None, None), ema=False))
    x, label = batch(net)
    y = net(x, label)
    expected, used = slow.slow_unet(theirs, x, label, **SMALL | way)
    assert used == set(theirs)
    # sums of some hundred terms, thirty layers deep, in float64
    torch.testing.assert_close(y, expected, rtol=1e-9, atol=1e-10)
    y.square().sum().backward()
    silent = [name for name, p in net.named_parameters() if p.grad is None or not p.grad.abs().max() > 1e-12]
    assert not silent


@pytest.mark.usefixtures("untouched")
@pytest.mark.parametrize("way", WAYS[::5], ids=label_of)
def test_same_generator_same_network_and_at_first_it_says_nothing(way):
    one, two, other = (UNet(**SMALL | way, generator=gen(seed)) for seed in (0, 0, 1))
    for (name, a), b, c in zip(
        one.state_dict().items(), two.state_dict().values(), other.state_dict().values(), strict=True
    ):
        assert torch.equal(a, b)
        constant = name.endswith("bias") or "norm" in name  # zeros, and the ones of normalisation
        assert torch.equal(a, c) == constant
    x, label = batch(one, dtype=torch.float32)
    y = one(x, label)
    assert y.shape == x.shape
    # the last weights are below sqrt(6e-10 / (9 (4 + 2))) = 3.4e-6, and 36 features of size 1 meet them
    assert 0 < y.abs().max().item() < 36 * 3 * 3.4e-6


def test_every_parameter_moves_in_training():
    """From the silent start: Adam's first step has the size of lr wherever there is a gradient at all."""
    net = UNet(
        **SMALL | {"progressive_in": "skip", "progressive_out": "skip", "time": "fourier"}, generator=gen()
    ).double()
    before = copy.deepcopy(net.state_dict())
    optimiser = torch.optim.Adam(net.parameters(), lr=1e-3, eps=0.0)
    x, label = batch(net)
    (net(x, label) - x).square().sum().backward()
    optimiser.step()
    still = [name for name, p in net.named_parameters() if not (p - before[name]).abs().max() > 1e-4]
    assert not still
    assert torch.equal(net.embed.features.frequencies, before["embed.features.frequencies"])


# --- any size ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("channels", [2, 3, 6, 7, 14, 33])
@pytest.mark.parametrize("in_channels", [1, 3, 5])
def test_any_number_of_channels(channels, in_channels):
    """Groups that divide the channels are found, an odd number of positional features ends in a zero."""
    for way in (
        {"progressive_in": "residual", "fir": (1, 3, 3, 1)},
        {"groups": 32, "block": "ddpm", "progressive_out": "skip"},
    ):
        net = small(channels=channels, in_channels=in_channels, **way)
        x, label = batch(net)
        y = net(x, label)
        assert y.shape == x.shape
        assert torch.isfinite(y).all()
        assert (y[0] - y[1]).abs().max() > 1e-3


@pytest.mark.parametrize(
    "size, multipliers", [(1, (2,)), (2, (1, 1)), (8, (1, 2, 2, 1)), (12, (1, 2, 2)), (32, (1, 2, 2, 2))]
)
def test_any_size(size, multipliers):
    net = small(
        image_size=size, multipliers=multipliers, fir=(1, 3, 3, 1), progressive_in="residual", progressive_out="skip"
    )
    x, label = batch(net)
    assert net(x, label).shape == x.shape


def test_256_pixels():
    """The paper's seven levels, with four channels instead of 128."""
    net = published("ve/celebahq_256_ncsnpp_continuous", channels=4, blocks=1, generator=gen()).eval()
    x, label = batch(net, items=1, dtype=torch.float32)
    with torch.no_grad():
        y = net(x, label)
    assert y.shape == x.shape
    assert torch.isfinite(y).all()


def test_1024_pixels_without_memory():
    """The paper's eight levels: on the meta device every layer checks its shapes and computes nothing."""
    with torch.device("meta"):
        net = published("ve/ffhq_1024_ncsnpp_continuous")
        x = torch.zeros(2, 3, 1024, 1024)
        assert net(x, torch.zeros(2)).shape == x.shape
    assert all(p.is_meta for p in net.parameters())


def test_largest_group_count_that_divides():
    for channels, groups, expected in [
        (128, None, 32), (128, 32, 32), (16, None, 4), (4, None, 1), (3, None, 1), (14, None, 2), (96, 32, 32), (33, 32, 11),
        (7, 32, 7), (256, None, 32), (100, None, 25), (6, 4, 3), (2, None, 1),
    ]:  # fmt: skip
        layer = norm(channels, groups)
        assert (layer.num_groups, layer.num_channels, layer.eps) == (expected, channels, 1e-6)


# --- the three argument sets ---------------------------------------------------------------------------------------


def test_the_paper_networks_are_argument_sets():
    """What distinguishes them is seen from outside: filters, the progressive path, features, who resamples, the factor."""
    with torch.device("meta"):
        nets = {make.__name__: make() for make in (ncsnpp, ddpmpp, ddpm_unet)}
    seen = {
        name: (
            any(key.endswith("kernel") for key, _ in net.named_buffers()),
            any(stage.shrink is not None for stage in net.down),
            type(net.embed.features).__name__,
            type(net.down[0].resample).__name__,
            round(net.factor, 4),
            len(net.down[0].units),
        )
        for name, net in nets.items()
    }
    assert seen == {
        "ncsnpp": (True, True, "FourierTime", "ResBlock", 0.7071, 4),
        "ddpmpp": (False, False, "SinusoidalTime", "ResBlock", 0.7071, 4),
        "ddpm_unet": (False, False, "SinusoidalTime", "ConvDown", 1.0, 2),
    }


def test_parts_are_all_parts_once():
    for way in WAYS[::11]:
        net = UNet(**SMALL | way)
        names = [f"{part}.{name}" for part, module in net.parts() for name, _ in module.named_parameters()]
        assert sorted(names) == sorted(name for name, _ in net.named_parameters())


# --- how layers start ----------------------------------------------------------------------------------------------


def test_weights_start_with_glorots_variance():
    """U(-b, b) has the variance b^2/3 = 2 gain/(fan_in + fan_out); relative standard error of n draws: sqrt(4/5 / n)."""
    net = UNet(image_size=8, channels=64, multipliers=(1, 2), blocks=1, attention_at=(), generator=gen())
    wide = net.down[1].units[0].residual
    for weight, gain, fans in (
        (wide.conv0.weight, 1.0, 9 * (64 + 128)),
        (wide.conv1.weight, 1e-10, 9 * (128 + 128)),
        (wide.dense.weight, 1.0, 256 + 128),
        (wide.shortcut.weight, 1.0, 64 + 128),
        (net.middle.units[0].attention.ask.weight, 0.1, 128 + 128),
        (net.middle.units[0].attention.answer.weight, 1e-10, 128 + 128),
        (net.embed.dense0.weight, 1.0, 64 + 256),
        (net.last.conv.weight, 1e-10, 9 * (64 + 3)),
    ):
        variance = 2 * gain / fans
        assert weight.abs().max() <= math.sqrt(3 * variance) * (1 + 1e-6)
        assert float(weight.detach().var()) == pytest.approx(variance, rel=4 * math.sqrt(0.8 / weight.numel()))


def variances(rescale, start, n_blocks=50):
    """The variance after each of ``n_blocks`` residual blocks, from one of ``start``.

    Their last convolutions, silent at first, are scaled so that the branch has variance 1 on what comes in. That is fair: a
    branch sees its input normalised, so its variance does not depend on the input's.
    """
    generator, heard, seen = gen(), torch.zeros(4, 8), []
    h = math.sqrt(start) * draw(4, 128, 8, 8, dtype=torch.float32)
    for _ in range(n_blocks):
        block = ResBlock(128, 128, 8, rescale=rescale, generator=generator)
        with torch.no_grad():
            block.conv1.weight.mul_(1e5)
            branch = block(h, heard) / block.factor - h
            block.conv1.weight.div_(branch.std())
            h = block(h, heard)
        seen.append(h.var().item())
    return torch.tensor(seen)


def test_rescaling_keeps_the_variance_through_fifty_blocks():
    """v -> (v + 1)/2 stays at 1 and forgets where it began; v -> v + 1 grows to 51.

    Why: branch and input are two terms of variance 1, uncorrelated because the branch's weights are drawn apart. With 128
    channels their covariance is 0 up to 0.025 (measured over seeds), which is the spread of each variance here.
    """
    kept, grown = variances(True, 1.0), variances(False, 1.0)
    assert kept.mean().item() == pytest.approx(1.0, abs=0.05)
    assert (kept - 1).abs().max() < 0.1  # four spreads
    assert (grown / torch.arange(2.0, 52.0) - 1).abs().max() < 0.1
    forgets = variances(True, 9.0, n_blocks=6)
    assert (forgets / (1 + 8 * 0.5 ** torch.arange(1.0, 7.0)) - 1).abs().max() < 0.1


# --- attention -----------------------------------------------------------------------------------------------------


def attention(channels=6, **changes):
    return spoken(Attention(channels, **changes), size=0.7)


@pytest.mark.parametrize("rescale", [True, False])
@pytest.mark.parametrize("height, width", [(4, 4), (3, 5), (1, 1)])
def test_attention_is_an_explicit_softmax(rescale, height, width):
    block, x = attention(rescale=rescale), draw(2, 6, height, width)
    pixels = torch.nn.functional.group_norm(x, 1, block.norm.weight, block.norm.bias, 1e-6).flatten(2)
    q, k, v = (
        torch.einsum("oc,bcp->bop", w[:, :, 0, 0], pixels) + b[:, None]
        for w, b in zip(block.ask.weight.chunk(3), block.ask.bias.chunk(3), strict=True)
    )
    found = torch.empty_like(v)
    for b in range(2):
        for p in range(height * width):
            logits = torch.stack([(q[b, :, p] * k[b, :, other]).sum() for other in range(height * width)]) / math.sqrt(
                6
            )
            share = torch.exp(logits - logits.max())
            found[b, :, p] = (v[b] * (share / share.sum())).sum(1)
    answer = torch.einsum("oc,bcp->bop", block.answer.weight[:, :, 0, 0], found) + block.answer.bias[:, None]
    expected = (x + answer.reshape(x.shape)) * (math.sqrt(0.5) if rescale else 1.0)
    torch.testing.assert_close(block(x), expected, rtol=1e-12, atol=1e-12)


def test_attention_does_not_know_where_pixels_are():
    """Permuted pixels give the permuted result: to rounding, as sums run in another order."""
    block, x = attention(), draw(2, 6, 4, 4)
    order = torch.randperm(16, generator=gen())
    shuffled = x.flatten(2)[:, :, order].reshape(x.shape)
    torch.testing.assert_close(block(shuffled).flatten(2), block(x).flatten(2)[:, :, order], rtol=1e-12, atol=1e-12)


def test_attention_reaches_every_pixel_and_a_block_only_neighbours():
    """The derivative of one pixel with respect to another, far away."""
    residual = spoken(ResBlock(6, 6, 4))
    x, heard = draw(1, 6, 9, 9), draw(1, 4)
    # a group norm is a mean over all pixels; with its statistics fixed, two 3 x 3 convolutions reach two pixels far
    residual.norm0, residual.norm1 = torch.nn.Identity(), torch.nn.Identity()
    for fn, reach in ((attention(), 8), (lambda x: residual(x, heard), 2)):
        leaf = x.clone().requires_grad_()
        (gradient,) = torch.autograd.grad(fn(leaf)[0, :, 0, 0].sum(), leaf)
        touched = gradient.abs().sum((0, 1)) > 0
        assert touched[: reach + 1, : reach + 1].all()
        assert not touched[reach + 1 :].any()


# --- time features -------------------------------------------------------------------------------------------------


def test_features_are_their_formulas():
    label = torch.tensor([0.0, 0.5, 999.0, -4.6], dtype=torch.float64)
    embed = FourierTime(5, scale=2.0, generator=gen()).double()
    angle = 2 * math.pi * label[:, None] * 2.0 * torch.randn(5, generator=gen()).double()
    torch.testing.assert_close(embed(label), torch.cat([angle.sin(), angle.cos()], 1), rtol=0, atol=1e-11)
    for channels in (2, 3, 8, 9):
        half = channels // 2
        angle = label[:, None] * torch.tensor(
            [10_000 ** (-i / max(half - 1, 1)) for i in range(half)], dtype=torch.float64
        )
        expected = torch.cat([angle.sin(), angle.cos(), torch.zeros(4, channels % 2)], 1)
        torch.testing.assert_close(SinusoidalTime(channels)(label), expected, rtol=0, atol=1e-12)


def test_whole_numbers_are_labels_too():
    """A chain's levels are counted; features of 3 are features of 3.0."""
    for time in ("fourier", "positional"):
        net = UNet(**SMALL, time=time, generator=gen()).eval()
        x, _ = batch(net, dtype=torch.float32)
        assert torch.equal(net(x, torch.tensor([3, 999])), net(x, torch.tensor([3.0, 999.0])))


# --- one function, however it is computed --------------------------------------------------------------------------


def test_items_do_not_depend_on_their_neighbours():
    for way in WAYS[::13]:
        net = small(**way)
        x, label = batch(net, items=3)
        together = net(x, label)
        alone = torch.cat([net(x[i : i + 1], label[i : i + 1]) for i in range(3)])
        # another batch size may take another summation order
        torch.testing.assert_close(together, alone, rtol=1e-11, atol=1e-11)


def test_memory_layout_does_not_matter():
    """Contiguous, channels-last, transposed, every second item of a larger tensor, one item expanded."""
    net = small(progressive_in="residual", fir=(1, 3, 3, 1))
    x, label = batch(net)
    y = net(x, label)
    for view in (x.contiguous(memory_format=torch.channels_last), x.mT.contiguous().mT, x.repeat_interleave(2, 0)[::2]):
        torch.testing.assert_close(net(view, label), y, rtol=1e-12, atol=1e-12)
    twice = torch.cat([x[:1], x[:1]])
    torch.testing.assert_close(net(x[:1].expand(2, -1, -1, -1), label), net(twice, label), rtol=1e-12, atol=1e-12)
    assert net.first.weight.is_contiguous(memory_format=torch.channels_last)


def test_dropout_drops_in_training_alone():
    net = UNet(**SMALL | {"dropout": 0.5}, generator=gen())
    x, label = batch(net, dtype=torch.float32)
    spoken(net).float()
    assert torch.equal(net(x, label), net(x, label))
    net.train()
    with torch.random.fork_rng():
        torch.manual_seed(0)
        one, two = net(x, label), net(x, label)
        torch.manual_seed(0)
        again = net(x, label)
    assert not torch.allclose(one, two)
    assert torch.equal(one, again)


@pytest.mark.parametrize("time", ["fourier", "positional"])
def test_precisions(time):
    """float64 is the truth; float32, bfloat16 weights and bfloat16 autocast stay within a few of their roundings.

    Fourier frequencies of 16 turns would not: rounded to bfloat16's eight bits they are other frequencies (measured: the output
    was off by more than its own size). So they stay in float32.
    """
    net = small(time=time, channels=16)
    x, label = batch(net)
    y = net(x, label)
    size = y.std().item()
    net.float()
    assert (net(x.float(), label.float()) - y).abs().max() < 1e-4 * size  # 700 roundings of 6e-8 in the label's angles
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert (net(x.float(), label.float()).double() - y).abs().max() < 0.1 * size  # measured: 0.03; eps is 0.008
    short = copy.deepcopy(net).bfloat16()
    assert (short(x.bfloat16(), label.float()).double() - y).abs().max() < 0.1 * size
    if time == "fourier":
        assert short.embed.features.frequencies.dtype == torch.float32
        assert torch.equal(short.double().embed.features.frequencies, net.double().embed.features.frequencies)


def test_a_score_from_start_to_end():
    """Through net_score in a short precision: scalings in float32, the score in x's dtype."""
    net = UNet(**SMALL, generator=gen())
    x, _ = batch(net, dtype=torch.float32)
    t = torch.tensor([0.01, 0.7])
    score = net_score(net, SubVP())
    expected = -net(x, 999 * t) / SubVP().std(t)[:, None, None, None]
    torch.testing.assert_close(score(x, t), expected)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert score(x, t).dtype == torch.float32


# --- derivatives ---------------------------------------------------------------------------------------------------

TINY = {"image_size": 4, "in_channels": 1, "multipliers": (1, 2), "attention_at": (2,)}


@pytest.fixture(params=["none", "residual", "skip"])
def tiny(request):
    way = {"progressive_in": request.param, "progressive_out": request.param, "fir": (1, 3, 3, 1)}
    return small(**TINY, **way, time="fourier")


def jacobians(net, x, label):
    """(batch, D, D): torch.func's reverse mode, an item at a time under vmap."""
    one = lambda x, label: net(x[None], label[None])[0].flatten()
    return torch.func.vmap(torch.func.jacrev(one))(x, label).flatten(2)


def test_divergence_is_the_jacobians_trace(tiny):
    """All of it by D backward passes, by a probe v^T J v, and averaged over all probes of a basis."""
    x, label = batch(tiny)
    J = jacobians(tiny, x, label)
    trace = J.diagonal(dim1=1, dim2=2).sum(1)
    assert trace.abs().min() > 1e-3
    value, exact = value_and_divergence(tiny, x, label)
    torch.testing.assert_close(value, tiny(x, label))
    torch.testing.assert_close(exact, trace, rtol=1e-10, atol=1e-10)
    probe = draw(*x.shape, seed=3)
    v = probe.flatten(1)
    expected = torch.einsum("bi,bij,bj->b", v, J, v)
    torch.testing.assert_close(divergence(tiny, x, label, probe=probe), expected, rtol=1e-10, atol=1e-10)
    with torch.no_grad():
        torch.testing.assert_close(divergence(tiny, x, label), trace, rtol=1e-10, atol=1e-10)


def test_forward_mode_and_vmap(tiny):
    """A jvp, and a whole batch's Jacobian both ways, in which no item meets another."""
    x, label = batch(tiny)
    J, v = jacobians(tiny, x, label), draw(*x.shape, seed=3)
    y, y_dot = torch.func.jvp(lambda x: tiny(x, label), (x,), (v,))
    torch.testing.assert_close(y, tiny(x, label))
    torch.testing.assert_close(y_dot.flatten(1), torch.einsum("bij,bj->bi", J, v.flatten(1)), rtol=1e-10, atol=1e-10)
    expected = torch.einsum("bij,bc->bicj", J, torch.eye(2).double())
    for jacobian in (torch.func.jacfwd, torch.func.jacrev):
        whole = jacobian(lambda x: tiny(x, label))(x).reshape(2, 16, 2, 16)
        torch.testing.assert_close(whole, expected, rtol=1e-10, atol=1e-10)


def test_second_derivatives(tiny):
    """Sliced score matching trains through a divergence: its gradient in a weight, against central differences."""
    x, label = batch(tiny)
    probe = draw(*x.shape, seed=3)
    weight = tiny.down[0].units[0].residual.conv0.weight
    divergence(tiny, x, label, probe=probe).sum().backward()
    direction, h = draw(*weight.shape, seed=4), 1e-5
    ends = []
    for sign in (1, -1):
        with torch.no_grad():
            weight.add_(sign * h * direction)
            ends.append(divergence(tiny, x, label, probe=probe).sum())
            weight.sub_(sign * h * direction)
    # error of the difference: h^2 times a third derivative of size 1 to 100
    assert float((weight.grad * direction).sum()) == pytest.approx(float(ends[0] - ends[1]) / (2 * h), rel=1e-6)


# --- what is refused -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("argument, value, error, message", [
    ("image_size", 0, ValueError, "needs a whole number of pixels, at least 1, got 0"),
    ("image_size", 7, ValueError, "needs a multiple of 2 for 2 levels, got 7"),
    ("image_size", "32", ValueError, "got '32'"),
    ("in_channels", 1.5, ValueError, "needs a whole number of channels, at least 1, got 1.5"),
    ("channels", 1, ValueError, "needs at least 2, got 1"),
    ("channels", True, ValueError, "got True"),
    ("multipliers", (), ValueError, "needs at least one level"),
    ("multipliers", (1, 0), ValueError, "needs a whole number of channels' multiples, at least 1, got 0"),
    ("multipliers", 2, TypeError, r"needs whole numbers in a row, such as \(1, 2\), got 2"),
    ("blocks", 0, ValueError, "needs a whole number of blocks, at least 1, got 0"),
    ("attention_at", 16, TypeError, "needs whole numbers in a row, .*got 16"),
    ("attention_at", (4.0,), ValueError, "got 4.0"),
    ("dropout", 1.0, ValueError, r"needs a number in \[0, 1\), got 1.0"),
    ("dropout", float("nan"), ValueError, "got nan"),
    ("dropout", "0.1", ValueError, "got '0.1'"),
    ("progressive_in", "input_skip", ValueError, "needs one of 'none', 'residual', 'skip', got 'input_skip'"),
    ("progressive_out", None, ValueError, "needs one of 'none', 'residual', 'skip', got None"),
    ("block", "resnet", ValueError, "needs one of 'biggan', 'ddpm', got 'resnet'"),
    ("fir", (1, 2, 1), ValueError, r"needs an even number of finite taps whose sum is not 0, got \(1, 2, 1\)"),
    ("fir", "1331", TypeError, "needs taps, numbers in a row such as .* got '1331'"),
    ("fir", True, TypeError, "got True"),
    ("rescale", 0.7, TypeError, "needs True or False, got 0.7"),
    ("time", "sinusoidal", ValueError, "needs one of 'fourier', 'positional', got 'sinusoidal'"),
    ("fourier_scale", 0, ValueError, "needs a finite number above 0, got 0"),
    ("fourier_scale", "16", TypeError, "needs a number, got str"),
    ("groups", 0, ValueError, "needs a whole number of groups, at least 1, got 0"),
    ("combine", "add", ValueError, "needs one of 'sum', 'cat', got 'add'"),
    ("generator", 3, TypeError, "needs a torch.Generator or None, got int"),
])  # fmt: skip
def test_bad_arguments_are_refused(argument, value, error, message):
    with pytest.raises(error, match=f"^{argument}: .*{message}"):
        UNet(**SMALL | {argument: value})


def test_bad_calls_are_refused():
    net = UNet(**SMALL)
    for shape in ((2, 2, 8, 4), (2, 3, 8, 8), (2, 8, 8), (2, 2, 16, 16)):
        with pytest.raises(
            ValueError, match=rf"x: needs shape \(batch, 2, 8, 8\), got \({', '.join(map(str, shape))}\)"
        ):
            net(torch.zeros(shape), torch.zeros(2))
    for label in (torch.tensor(0.5), torch.zeros(1), torch.zeros(2, 1)):
        with pytest.raises(ValueError, match=r"label: needs one number an item, shape \(2,\), got \("):
            net(torch.zeros(2, 2, 8, 8), label)
