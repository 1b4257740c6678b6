"""The networks are the authors': every number of tests/data/networks.json, and where its outputs are missing a slow oracle.

Three entries (an up-sampling block, a CelebA-HQ network and a DDPM, both tiny) have names and shapes but no outputs. Theirs are
computed by tests/slow_unet.py, which shares no code with the library and is itself held against the entries that have outputs.
"""

import math

import pytest
import torch
import torch.nn.functional as F

from sdelib import VE, VP, net_score
from sdelib.checkpoint import authors_layout
from sdelib.models import published
from sdelib.models.blocks import Attention, ConvDown, ResBlock
from sdelib.models.fir import Down, Up, fir_downsample, fir_upsample
from sdelib.models.layers import FourierTime, SinusoidalTime
from sdelib.models.zoo import PUBLISHED
from tests import slow_unet as slow
from tests.golden import ATOL, ENTRIES, RTOL, fill, tensor, wave, weights

BIGGAN = ("same", "widen", "down_fir", "down_naive", "up_fir")
NETWORKS = ("ncsnpp_ve", "ddpmpp_vp", "ncsnpp_celebahq", "ddpm_vp")
OURS = {"GroupNorm_0": "norm0", "Conv_0": "conv0", "Dense_0": "dense", "GroupNorm_1": "norm1", "Conv_1": "conv1"}
OURS |= {"Conv_2": "shortcut", "NIN_0": "shortcut"}


def kept_back(entry):
    return "outputs" not in entry


def golden(entry):
    return tensor(entry["outputs"]["y"])


def close(got, expected, rtol=RTOL, atol=ATOL):
    torch.testing.assert_close(got.detach().double(), expected, rtol=rtol, atol=atol)


def set_by(module, tensors, names):
    """A block with an entry's weights; each of the block's tensors is set, and each of the entry's is used."""
    state = {}
    for name, value in tensors.items():
        part, _, kind = name.rpartition(".")
        if part.startswith("NIN"):
            value, kind = (value.T[:, :, None, None], "weight") if kind == "W" else (value, "bias")
        state[f"{names[part]}.{kind}"] = value
    module.double().eval().load_state_dict(state, strict=True)
    return module


def test_the_file_holds_what_these_tests_name():
    names = {f"net.biggan.{name}" for name in BIGGAN} | {f"net.tiny.{name}" for name in NETWORKS}
    names |= {
        "embed.positional",
        "fir",
        "param_counts",
        "net.ddpm.widen",
        "net.attn",
        "net.fir_downconv",
        "net.fourier",
    }
    assert set(ENTRIES) == names
    assert {name for name in names if kept_back(ENTRIES[name])} == {
        "net.biggan.up_fir", "net.tiny.ncsnpp_celebahq", "net.tiny.ddpm_vp"
    }  # fmt: skip


# --- pieces --------------------------------------------------------------------------------------------------------


def test_positional_features():
    """Theirs are in float32, whose angles near 1,000 are off by up to 6e-5; in float64 ours are exact."""
    entry = ENTRIES["embed.positional"]
    embed, label = SinusoidalTime(entry["inputs"]["dim"]), tensor(entry["inputs"]["t"])
    close(embed(label), tensor(entry["outputs"]["emb"]), rtol=0, atol=1e-4)
    # in float32 the frequencies are rounded otherwise, by two units in the last place: 999 x 2 x 6e-8
    close(embed(label.float()), tensor(entry["outputs"]["emb"]), rtol=0, atol=1.2e-4)


def test_fourier_features():
    entry = ENTRIES["net.fourier"]
    W = tensor(entry["inputs"]["W"])
    embed = FourierTime(len(W)).double()
    embed.frequencies.copy_(W)
    # 40 turns times 4.6: angles near 1e3, in which float64 rounds by 1e-13
    close(embed(tensor(entry["inputs"]["log_sigma"])), tensor(entry["outputs"]["emb"]))


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize(
    "name, function, module",
    [
        ("upsample", fir_upsample, Up),
        ("downsample", fir_downsample, Down),
        ("naive_upsample", None, lambda taps: Up(None)),
        ("naive_downsample", None, lambda taps: Down(None)),
    ],
)
def test_resampling(name, function, module, dtype):
    """The entry is float32: its outputs, of size 1, carry roundings of 6e-8, and in float32 so do ours."""
    entry = ENTRIES["fir"]
    x, taps = tensor(entry["inputs"]["x"]).to(dtype), entry["inputs"]["kernel"]
    expected = tensor(entry["outputs"][name])
    close(module(taps).to(dtype)(x), expected, rtol=1e-6, atol=2e-7)
    if function is not None:
        close(function(x, taps), expected, rtol=1e-6, atol=2e-7)


@pytest.mark.parametrize("name", ENTRIES["param_counts"]["outputs"])
def test_parameter_counts(name):
    """Counted without memory. The authors count frozen Fourier frequencies among their parameters; here they are a buffer."""
    expected = ENTRIES["param_counts"]["outputs"][name]
    with torch.device("meta"):
        net = published(name)
    trainable = sum(p.numel() for p in net.parameters() if p.requires_grad)
    frozen = sum(b.numel() for key, b in net.named_buffers() if key.endswith("frequencies"))
    assert trainable == expected["trainable"]
    assert trainable + frozen == expected["total"]
    assert all(p.requires_grad for p in net.parameters())


def test_configurations_that_share_a_network():
    """vp and subvp differ in the noise alone, and so do faces, bedrooms and churches: none may change unnoticed."""
    for names in (
        ("vp/cifar10_ddpmpp_continuous", "subvp/cifar10_ddpmpp_continuous", "vp/cifar10_ddpmpp"),
        ("vp/cifar10_ddpmpp_deep_continuous", "subvp/cifar10_ddpmpp_deep_continuous"),
        ("vp/ddpm/cifar10", "vp/ddpm/cifar10_continuous", "vp/cifar10_ddpm", "subvp/cifar10_ddpm_continuous"),
        ("ve/cifar10_ncsnpp", "vp/cifar10_ncsnpp_continuous"),
        ("ve/celebahq_256_ncsnpp_continuous", "ve/ffhq_256_ncsnpp_continuous", "ve/bedroom_ncsnpp_continuous"),
        ("ve/celebahq_256_ncsnpp_continuous", "ve/church_ncsnpp_continuous"),
        ("ve/ffhq_ncsnpp_continuous", "ve/ffhq_1024_ncsnpp_continuous", "ve/celebahq_ncsnpp_continuous"),
    ):
        assert all(PUBLISHED[name] == PUBLISHED[names[0]] for name in names)


def test_an_unknown_configuration_is_refused():
    with pytest.raises(
        ValueError, match=r"name: needs one of .*got 've/cifar10_ncsnpp_cont'; did you mean 've/cifar10_ncsnpp"
    ):
        published("ve/cifar10_ncsnpp_cont")
    with pytest.raises(ValueError, match="got 'biggest'$"):
        published("biggest")


# --- blocks --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", BIGGAN)
def test_biggan_block(name):
    entry = ENTRIES[f"net.biggan.{name}"]
    options = entry["inputs"]["options"]
    x, temb = wave(entry["inputs"]["x_shape"]), wave((1, 6), start=0.1)
    taps = options.get("fir_kernel")
    resample = Down(taps) if options.get("down") else Up(taps) if options.get("up") else None
    block = ResBlock(options["in_ch"], options.get("out_ch", options["in_ch"]), 6, resample=resample)
    y = set_by(block, weights(entry), OURS)(x, F.silu(temb))
    change = (lambda x: slow.shrunk(x, taps)) if options.get("down") else None
    change = (lambda x: slow.grown(x, taps)) if options.get("up") else change
    other = slow.residual_block(slow.Weights(weights(entry)), x, slow.silu(temb), resample=change)
    close(y, other)
    if not kept_back(entry):
        assert list(y.shape) == entry["outputs"]["y_shape"]
        close(y, golden(entry))
        close(other, golden(entry))


def test_ddpm_block():
    entry = ENTRIES["net.ddpm.widen"]
    x, temb = wave(entry["inputs"]["x_shape"]), wave((1, 6), start=0.1)
    block = set_by(ResBlock(4, 8, 6), weights(entry), OURS)
    close(block(x, F.silu(temb)), golden(entry))
    close(slow.residual_block(slow.Weights(weights(entry)), x, slow.silu(temb)), golden(entry))


def test_attention():
    """With skip rescaling; here query, key and value are one layer, ``ask``."""
    entry = ENTRIES["net.attn"]
    x, given = wave(entry["inputs"]["x_shape"]), weights(entry)
    ask = {
        f"NIN_q.{kind}": torch.cat([given[f"NIN_{i}.{kind}"] for i in range(3)], 1 if kind == "W" else 0)
        for kind in "Wb"
    }
    rest = {name: value for name, value in given.items() if name.startswith(("GroupNorm", "NIN_3"))}
    block = set_by(Attention(4), rest | ask, {"GroupNorm_0": "norm", "NIN_q": "ask", "NIN_3": "answer"})
    close(block(x), golden(entry))
    close(slow.attention(slow.Weights(given), x), golden(entry))


def test_filtered_convolution_with_stride():
    entry = ENTRIES["net.fir_downconv"]
    x, given = wave(entry["inputs"]["x_shape"]), weights(entry)
    block = set_by(ConvDown(2, 3, (1, 3, 3, 1)), {f"c.{name}": value for name, value in given.items()}, {"c": "conv"})
    close(block(x), golden(entry))
    theirs = slow.Weights({f"Conv2d_0.{name}": value for name, value in given.items()})
    close(slow.conv_down(theirs, x, (1, 3, 3, 1)), golden(entry))


# --- whole networks ------------------------------------------------------------------------------------------------


def tiny(name):
    """Entry, network, input and cond of a tiny network; and its arguments, which the entry names as the authors do."""
    entry = ENTRIES[f"net.tiny.{name}"]
    inputs = entry["inputs"]
    names = {"nf": "channels", "ch_mult": "multipliers", "num_res_blocks": "blocks", "attn_resolutions": "attention_at"}
    changes = {names.get(key, key): value for key, value in inputs["overrides"].items()}
    net = fill(published(inputs["config"], **changes), entry)
    return entry, net, wave((2, 3, 8, 8), scale=0.5, offset=0.5), tensor(inputs["cond"]), changes


@pytest.mark.parametrize("name", NETWORKS)
def test_names_and_shapes_map_completely(name):
    """Every tensor of theirs becomes one of ours, in the order of their file; what is put in, number by number, comes out."""
    entry, net, *_ = tiny(name)
    theirs = weights(entry)
    layout = authors_layout(net)
    sources = [source for part in layout for source in part.sources]
    assert len(set(sources)) == len(sources)
    assert set(sources) == set(theirs)
    assert [source.split(".")[1] for source in sources] == [key.split(".")[1] for key in theirs]  # the order of modules
    own = net.state_dict()
    assert {part.name for part in layout} == set(own)
    assert sum(value.numel() for value in own.values()) == sum(value.numel() for value in theirs.values())
    for part in layout:
        pieces = [theirs[source].T if part.nin else theirs[source] for source in part.sources]
        assert torch.equal(own[part.name].flatten(), torch.cat(pieces).flatten())


@pytest.mark.parametrize("name", NETWORKS)
def test_tiny_network(name):
    """Against their outputs, with their scalings undone by hand, and against the slow network."""
    entry, net, x, cond, changes = tiny(name)
    ve = entry["inputs"]["config"].startswith("ve/")
    inp, label = (2 * x - 1, cond.log()) if ve else (x, cond)
    y = net(inp, label)
    make, arguments = PUBLISHED[entry["inputs"]["config"]]
    assert make.__name__ in ("ncsnpp", "ddpmpp", "ddpm_unet")
    columns = {  # the parents' columns, written out again
        "ncsnpp": {"fir": (1, 3, 3, 1), "progressive_in": "residual", "time": "fourier"},
        "ddpmpp": {},
        "ddpm_unet": {"block": "ddpm", "rescale": False, "groups": 32},
    }
    other, used = slow.slow_unet(weights(entry), inp, label, **columns[make.__name__] | arguments | changes)
    assert used == set(weights(entry))
    close(y, other)
    if not kept_back(entry):
        close(y / cond[:, None, None, None] if ve else y, golden(entry))
        close(other / cond[:, None, None, None] if ve else other, golden(entry))


def test_through_net_score_ve():
    """The authors' whole model is net_score(net, VE(), inp=2 x - 1) at the time that has this sigma."""
    entry, net, x, sigma, _ = tiny("ncsnpp_ve")
    sde = VE()
    t = torch.log(sigma / sde.sigma_min) / math.log(sde.sigma_max / sde.sigma_min)
    close(net_score(net, sde, inp=lambda x, t: 2 * x - 1)(x, t), golden(entry))


def test_through_net_score_vp():
    """Theirs predicts the noise: the score is -output/std(t) at t = cond/999."""
    entry, net, x, cond, _ = tiny("ddpmpp_vp")
    t = cond / 999
    std = torch.sqrt(-torch.expm1(-(0.1 * t + 0.5 * 19.9 * t**2)))
    close(net_score(net, VP())(x, t), -golden(entry) / std[:, None, None, None])


def test_in_float32():
    """The precision that networks run in: some hundred sums of roundings of 6e-8 in outputs of size 1."""
    for name in ("ncsnpp_ve", "ddpmpp_vp"):
        entry, net, x, cond, _ = tiny(name)
        inp, label = (2 * x - 1, cond.log()) if name == "ncsnpp_ve" else (x, cond)
        y = net.float()(inp.float(), label.float()).double()
        scale = cond[:, None, None, None] if name == "ncsnpp_ve" else 1.0
        # measured: 8e-7; ten times that for another processor's order of summation
        close(y / scale, golden(entry), rtol=0, atol=1e-5)
