"""A drawing of a U-Net: what it lists is what runs, and each sign stands for something that is there."""

import itertools

import matplotlib as mpl
import pytest
import torch

from sdelib import diagram, plot
from sdelib.models import MLP, UNet, ddpm_unet, ddpmpp, ncsnpp, published

mpl.use("agg")


def small(**changes):
    return UNet(
        **{"image_size": 8, "in_channels": 1, "channels": 8, "multipliers": (1, 2), "blocks": 1, "attention_at": ()}
        | changes
    )


def meta(make, *arguments):
    with torch.device("meta"):
        return make(*arguments)


@pytest.mark.parametrize("make", [ncsnpp, ddpmpp, ddpm_unet])
def test_every_trained_number_stands_in_one_part(make):
    net = meta(make)
    parts = diagram.trace(net)
    assert sum(part.parameters for part in parts) == sum(p.numel() for p in net.parameters())
    assert [part.name for part in parts] == [name for name, _ in net.parts()]


def test_sizes_and_channels_are_those_of_a_run():
    net = small(progressive_in="residual", progressive_out="skip", fir=(1, 3, 3, 1))
    seen = {}
    for name, module in net.parts():
        module.register_forward_hook(lambda module, inputs, output, name=name: seen.update({name: output.shape}))
    net(torch.zeros(1, 1, 8, 8), torch.zeros(1))
    for part in diagram.trace(net):
        assert seen[part.name][1] == part.channels
        assert (seen[part.name][2] if seen[part.name][2:] else 0) == part.size
    assert not any(p.is_meta for p in net.parameters())  # the network itself stays where it is
    assert all(len(module._forward_hooks) == 1 for _, module in net.parts())  # and keeps no hook of the drawing's


def test_skips_join_equals_and_fit_the_blocks_that_take_them():
    net = ddpmpp(image_size=16, channels=8, multipliers=(1, 2, 3), blocks=2, attention_at=(8,))
    parts = {part.name: part for part in diagram.trace(net)}
    takers = [part for part in parts.values() if part.takes]
    assert len({part.takes for part in takers}) == len(takers) == 3 * 3
    order = list(parts)
    for part in takers:
        block = dict(net.named_modules())[part.name]
        before = next(
            one
            for one in reversed(order[: order.index(part.name)])
            if parts[one].kind in ("block", "attention", "double")
        )
        assert parts[part.takes].size == part.size
        assert block.conv0.in_channels == parts[before].channels + parts[part.takes].channels


@pytest.mark.parametrize(
    "changes, hears, filtered",
    [
        ({}, True, False),
        ({"fir": (1, 3, 3, 1)}, True, True),
        ({"block": "ddpm"}, False, False),
        ({"block": "ddpm", "fir": (1, 1)}, False, True),
    ],
)
def test_resampling_says_how(changes, hears, filtered):
    parts = [part for part in diagram.trace(small(**changes)) if part.kind in ("halve", "double")]
    assert [part.kind for part in parts] == ["halve", "double"]
    assert all(part.hears == hears and part.filtered == filtered for part in parts)


def test_the_drawing_has_a_bar_a_block_and_a_line_a_skip():
    net = small(blocks=2, attention_at=(4,))
    with plot.style():
        fig, ax = plot.panels()
        parts = diagram.unet(ax, net, columns=20)
        diagram.legend(ax)
        fig.canvas.draw()
    kinds = [part.kind for part in parts]
    assert len(ax.patches) == kinds.count("block") + 4  # and first, halve, double, last
    assert sum(line.get_marker() == "o" for line in ax.lines) == kinds.count("attention") == 4
    skips = [line for line in ax.lines if line.get_color() == "#B9B8B2"]
    assert len(skips) == sum(part.takes is not None for part in parts) == 6
    assert [text.get_text() for text in ax.get_yticklabels()] == ["8²", "4²"]
    bars = sorted((bar.get_x(), bar.get_x() + bar.get_width()) for bar in ax.patches)
    assert all(right < left for (_, right), (left, _) in itertools.pairwise(bars))  # one after the other, as they run
    mpl.pyplot.close(fig)


def test_a_wide_drawing_of_every_published_shape():
    for name in ("ve/celebahq_256_ncsnpp_continuous", "ve/celebahq_ncsnpp_continuous"):
        net = meta(published, name)
        with plot.style():
            fig, ax = plot.panels()
            parts = diagram.unet(ax, net)
            fig.canvas.draw()
        speaks = [part for part in parts if part.kind == "speak"]
        assert len(speaks) == len({part.size for part in parts if part.size})  # progressive output: each level speaks
        mpl.pyplot.close(fig)


def test_what_is_no_unet_is_refused():
    with pytest.raises(TypeError, match="net: needs a UNet, got MLP"):
        diagram.trace(MLP(2, hidden=8))
