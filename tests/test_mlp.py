"""The small network: what it may depend on, and that it can learn what it is for."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from sdelib.models import MLP
from sdelib.models.mlp import FourierFeatures


def gen(seed=0):
    return torch.Generator().manual_seed(seed)


@pytest.mark.usefixtures("untouched")
def test_same_generator_same_network_and_nothing_global():
    one, two, three = MLP(2, generator=gen()), MLP(2, generator=gen()), MLP(2, generator=gen(1))
    x, label = torch.randn(5, 2, generator=gen(5)), torch.rand(5, generator=gen(6))
    assert torch.equal(one(x, label), two(x, label))
    assert not torch.equal(one(x, label), three(x, label))


@given(shape=st.sampled_from([(2,), (1, 8, 8), (3, 2, 2), (1,)]), batch=st.integers(1, 6), depth=st.integers(1, 4))
def test_an_item_does_not_depend_on_its_neighbours(shape, batch, depth):
    net = MLP(shape, hidden=16, depth=depth, generator=gen()).double()
    x, label = torch.randn(batch, *shape, generator=gen(1)).double(), torch.rand(batch, generator=gen(2)).double()
    together = net(x, label)
    alone = torch.cat([net(x[i : i + 1], label[i : i + 1]) for i in range(batch)])
    assert together.shape == x.shape
    # another batch size may take another summation order inside the matrix product: rounding, no more
    torch.testing.assert_close(together, alone, rtol=0, atol=1e-12)


def test_images_and_points_take_the_same_path():
    flat, square = MLP(64, hidden=16, generator=gen()), MLP((1, 8, 8), hidden=16, generator=gen())
    x, label = torch.randn(3, 64, generator=gen(1)), torch.rand(3, generator=gen(2))
    assert torch.equal(flat(x, label).reshape(3, 1, 8, 8), square(x.reshape(3, 1, 8, 8), label))


def test_features_are_sines_and_cosines_of_the_squeezed_label():
    embed = FourierFeatures(6, scale=0.3, generator=gen())
    label = torch.tensor([0.0, 0.5, 999.0, -4.6])
    w = 0.3 * torch.randn(3, generator=gen())
    squeezed = torch.log(label.double() + torch.sqrt(label.double() ** 2 + 1))  # asinh, written out
    angle = 2 * torch.pi * squeezed[:, None] * w.double()
    expected = torch.cat([torch.sin(angle), torch.cos(angle)], 1)
    # float32 angles reach 40, where half a unit in the last place is 2e-6
    torch.testing.assert_close(embed(label).double(), expected, rtol=0, atol=1e-5)
    assert not list(embed.parameters())
    assert "frequencies" in embed.state_dict()


def test_frequencies_have_the_stated_spread():
    drawn = FourierFeatures(20_000, scale=0.3, generator=gen()).frequencies
    assert float(drawn.std()) == pytest.approx(0.3, abs=4 * 0.3 / (2 * 10_000) ** 0.5)  # four standard errors


def test_label_and_every_parameter_matter():
    net = MLP(2, hidden=8, generator=gen()).double()
    x = torch.randn(4, 2, generator=gen(1)).double()
    low, high = (net(x, torch.full((4,), v, dtype=torch.float64)) for v in (0.1, 0.9))
    assert (low - high).abs().max().item() > 1e-3
    high.square().sum().backward()
    assert all(float(p.grad.abs().max()) > 0 for p in net.parameters())


def test_initial_weights_follow_torchs_law():
    weight = MLP(2, hidden=400, generator=gen()).layers[1].weight.detach()
    bound = 400**-0.5
    assert float(weight.abs().max()) <= bound
    # uniform: variance bound^2 / 3; 160,000 draws with relative standard error sqrt(4/5 / n)
    assert float(weight.var()) == pytest.approx(bound**2 / 3, rel=4 * (0.8 / 160_000) ** 0.5)


@pytest.mark.parametrize("arguments, message", [
    ({"shape": 0}, "shape: needs"), ({"shape": (1, 0)}, "shape: needs"), ({"hidden": 0}, "hidden: needs"),
    ({"depth": 1.5}, "depth: needs"), ({"features": 7}, "features: needs an even"), ({"fourier_scale": 0}, "scale: needs"),
])  # fmt: skip
def test_bad_sizes_are_refused(arguments, message):
    with pytest.raises(ValueError, match=message):
        MLP(**arguments)


def test_bad_calls_are_refused():
    net = MLP(2)
    with pytest.raises(ValueError, match=r"x: needs items of shape \(2,\), got \(3,\)"):
        net(torch.zeros(4, 3), torch.zeros(4))
    with pytest.raises(ValueError, match=r"label: needs one number an item, shape \(4,\), got \(1,\)"):
        net(torch.zeros(4, 2), torch.zeros(1))
