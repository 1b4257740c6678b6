"""The 3 x 3 convolution with its own weight gradient: PyTorch's in every way that it can be differentiated."""

import pytest
import torch
import torch.nn.functional as F
from torch.autograd import gradcheck, gradgradcheck

from sdelib.models import convolution
from sdelib.models.convolution import Conv3, _Convolve


def drawn(generator, *shape, dtype=torch.float64):
    return torch.randn(shape, generator=generator, dtype=dtype)


@pytest.fixture
def inputs(generator):
    x, weight, bias = drawn(generator, 2, 3, 4, 5), drawn(generator, 4, 3, 3, 3), drawn(generator, 4)
    return tuple(v.requires_grad_() for v in (x, weight, bias))


def test_first_and_second_derivatives(inputs):
    """Against finite differences, torch's own check with its own tolerances."""
    assert gradcheck(_Convolve.apply, inputs, check_forward_ad=True)
    assert gradgradcheck(_Convolve.apply, inputs)


@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last])
@pytest.mark.parametrize("size", [1, 2, 7])
def test_gradients_are_those_of_conv2d(generator, layout, size):
    """To rounding in float64, for images down to one pixel, where all taps but one meet the border."""
    x, net = drawn(generator, 3, 20, size, size + 1).to(memory_format=layout).requires_grad_(), Conv3(20, 24).double()
    g = drawn(generator, 3, 24, size, size + 1)
    y = net(x)
    assert type(y.grad_fn).__name__.startswith("_Convolve")  # or else this compares torch with itself
    ours = torch.autograd.grad(y, (x, net.weight, net.bias), g)
    plain = F.conv2d(x, net.weight, net.bias, padding=1)
    torch.testing.assert_close(y, plain, rtol=0, atol=0)
    for one, other in zip(ours, torch.autograd.grad(plain, (x, net.weight, net.bias), g), strict=True):
        torch.testing.assert_close(one, other, rtol=1e-12, atol=1e-12)


def test_under_torch_func(inputs):
    """vjp, jvp and vmap over either, as divergences use them."""
    x, weight, bias = inputs[0].detach(), *inputs[1:]
    plain = lambda x: F.conv2d(x, weight, bias, padding=1)
    ours = lambda x: _Convolve.apply(x, weight, bias)
    tangents = torch.randn(5, *x.shape, dtype=x.dtype, generator=torch.Generator().manual_seed(1))
    for push in (
        lambda f: torch.func.vmap(lambda v: torch.func.jvp(f, (x,), (v,))[1])(tangents),
        lambda f: torch.func.jacrev(f)(x),
        lambda f: torch.func.vmap(f)(tangents),
        lambda f: torch.func.vmap(torch.func.grad(lambda v: f(v).square().sum()))(tangents),
    ):
        torch.testing.assert_close(push(ours).detach(), push(plain).detach(), rtol=1e-12, atol=1e-12)


def test_who_takes_the_way(generator):
    """Only what trains, on a CPU, in one dtype and wide enough; all others are torch's own."""
    x = drawn(generator, 1, 16, 4, 4, dtype=torch.float32)
    ours = lambda net, x: "_Convolve" in type(net(x).grad_fn).__name__
    assert ours(Conv3(16, 16), x)
    assert not ours(Conv3(16, convolution.WIDE - 1), x)
    with torch.no_grad():
        assert Conv3(16, 16)(x).grad_fn is None
    assert not ours(Conv3(16, 16).requires_grad_(False), x)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert Conv3(16, 16)(x).dtype == torch.bfloat16
