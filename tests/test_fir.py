"""Resampling: dense matrices, adjoints, SciPy, plane waves whose fate is known in closed form, and what is refused."""

import cmath
import math

import hypothesis.strategies as st
import numpy as np
import pytest
import scipy.signal
import torch
from hypothesis import given
from torch.autograd import gradcheck

from sdelib.models import Down, Up, fir_downsample, fir_kernel, fir_upsample
from sdelib.models.fir import Blur
from tests.slow_unet import along_both, blur_matrix, down_matrix, up_matrix

PAPER = (1, 3, 3, 1)
TAPS = [PAPER, (1, 1), (1, 2, 5, 3), (1, 5, 10, 10, 5, 1), (-1, 0, 2, 7, 1, -3), (0, 1)]
# sums of at most 36 terms of size 1 in float64
EXACT = {"rtol": 0, "atol": 1e-13}


def images(generator, *shape):
    return torch.randn(*shape, dtype=torch.float64, generator=generator)


# --- the same numbers by other ways --------------------------------------------------------------------------------


@pytest.mark.parametrize("taps", TAPS, ids=str)
@pytest.mark.parametrize("height, width", [(8, 8), (2, 6), (12, 4)])
def test_both_are_dense_matrices(taps, height, width, generator):
    x = images(generator, 2, 3, height, width)
    for function, matrix in ((fir_downsample, down_matrix), (fir_upsample, up_matrix)):
        rows, columns = matrix(height, taps), matrix(width, taps)
        torch.testing.assert_close(function(x, taps), rows @ x @ columns.T, **EXACT)


@pytest.mark.parametrize("taps", TAPS, ids=str)
def test_both_are_scipys_upfirdn(taps, generator):
    """scipy.signal.upfirdn(h, x, up, down) inserts zeros, filters, keeps every down-th; along one axis, then the other."""
    x, k = images(generator, 10, 6), [tap / sum(taps) for tap in taps]
    half = len(taps) // 2

    def down(line):  # the full filtering starts half a filter early
        return scipy.signal.upfirdn(k, line)[half::2][: len(line) // 2]

    def up(line):
        return scipy.signal.upfirdn([2 * tap for tap in k], line, up=2)[half - 1 :][: 2 * len(line)]

    for function, line in ((fir_downsample, down), (fir_upsample, up)):
        rows = np.array([line(row) for row in x.numpy()])
        expected = torch.from_numpy(np.array([line(row) for row in rows.T]).T)
        torch.testing.assert_close(function(x[None, None], taps)[0, 0], expected, **EXACT)


@given(taps=st.lists(st.floats(0.1, 2.0), min_size=1, max_size=4), seed=st.integers(0, 1000), half=st.integers(1, 5))
def test_growing_is_four_times_the_adjoint_of_shrinking(taps, seed, half):
    """<down x, y> = <x, up y>/4 for every filter that reads the same backwards; with the taps reversed, for every filter."""
    generator = torch.Generator().manual_seed(seed)
    x, y = images(generator, 1, 2, 2 * half, 2 * half), images(generator, 1, 2, half, half)
    symmetric = [*taps, *reversed(taps)]
    there = (fir_downsample(x, symmetric) * y).sum()
    torch.testing.assert_close(there, (x * fir_upsample(y, symmetric)).sum() / 4, rtol=1e-11, atol=1e-11)
    lopsided = [*taps, *(0.3 * tap for tap in taps)]
    there = (fir_downsample(x, lopsided) * y).sum()
    torch.testing.assert_close(there, (x * fir_upsample(y, lopsided[::-1])).sum() / 4, rtol=1e-11, atol=1e-11)


def test_gradients_are_the_adjoints(generator):
    """Autograd's own check by finite differences, forward mode too."""
    x = images(generator, 1, 2, 4, 6).requires_grad_()
    for taps in (PAPER, (1, 2, 5, 3)):
        assert gradcheck(lambda x, taps=taps: fir_downsample(x, taps), (x,), check_forward_ad=True)
        assert gradcheck(lambda x, taps=taps: fir_upsample(x, taps), (x,), check_forward_ad=True)


@pytest.mark.parametrize("taps", TAPS, ids=str)
def test_the_modules_are_the_functions(taps, generator):
    """A module keeps its taps in float32, so that is the precision in which both agree for taps such as 2/11."""
    x = images(generator, 2, 3, 8, 8).float()
    for module, function in ((Down(taps), fir_downsample), (Up(taps), fir_upsample)):
        torch.testing.assert_close(module(x), function(x, taps), rtol=0, atol=1e-6)
        assert not list(module.parameters())
        assert not module.state_dict()  # taps are no weights: they come from the arguments
    exact = images(generator, 2, 3, 8, 8)
    for module, function in ((Down(), fir_downsample), (Up(), fir_upsample)):  # 9/64 and the like are exact
        assert torch.equal(module.double()(exact), function(exact))


def test_without_a_filter(generator):
    x = images(generator, 2, 3, 6, 4)
    means = (x[:, :, ::2, ::2] + x[:, :, 1::2, ::2] + x[:, :, ::2, 1::2] + x[:, :, 1::2, 1::2]) / 4
    torch.testing.assert_close(Down(None)(x), means, **EXACT)
    assert torch.equal(Up(None)(x), x.repeat_interleave(2, 2).repeat_interleave(2, 3))
    torch.testing.assert_close(Down(None)(x), fir_downsample(x, (1, 1)), **EXACT)  # the mean is the shortest filter
    torch.testing.assert_close(Up(None)(x), fir_upsample(x, (1, 1)), **EXACT)


@pytest.mark.parametrize("taps", TAPS, ids=str)
@pytest.mark.parametrize("padding", [1, 2])
def test_blur_is_a_dense_matrix(taps, padding, generator):
    x = images(generator, 1, 2, 6, 6).float()
    if 6 + 2 * padding < len(taps):
        pytest.skip("nothing is left of the image")
    expected = 4 * along_both(blur_matrix(6, taps, padding, torch.float32), x)
    torch.testing.assert_close(
        Blur(taps, padding=padding, gain=4.0)(x), expected, rtol=0, atol=2e-5
    )  # float32 sums of up to 100


# --- what a filter is for ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("taps", TAPS, ids=str)
def test_a_constant_stays_away_from_the_border(taps):
    """Down: the taps sum to 1. Up: so do twice those that meet a pixel, for filters that treat even and odd pixels alike."""
    x, edge = torch.full((1, 1, 16, 16), 3.0, dtype=torch.float64), 3
    inside = (slice(None), slice(None), slice(edge, -edge), slice(edge, -edge))
    torch.testing.assert_close(fir_downsample(x, taps)[0, 0, 2:-2, 2:-2], torch.full((4, 4), 3.0).double(), **EXACT)
    y = fir_upsample(x, taps)[inside]
    even, odd = (2 * sum(taps[i::2]) / sum(taps) for i in (0, 1))
    assert {round(v, 9) for v in y.unique().tolist()} == {round(3 * a * b, 9) for a in (even, odd) for b in (even, odd)}
    if taps in (PAPER, (1, 1), (1, 5, 10, 10, 5, 1)):
        torch.testing.assert_close(y, torch.full_like(y, 3.0), **EXACT)


def response(taps, omega):
    """K(omega) = sum_j k[j] e^{-i omega j}, the middle pair at j = 0 and 1."""
    first = 1 - len(taps) // 2
    return sum(tap * cmath.exp(-1j * omega * (first + j)) for j, tap in enumerate(taps)) / sum(taps)


def wave(omega, n, phase=0.4):
    """cos(omega column + phase), the same in every row."""
    line = torch.cos(omega * torch.arange(n, dtype=torch.float64) + phase)
    return line.expand(1, 1, n, n)


@given(taps=st.sampled_from(TAPS), omega=st.floats(0.0, math.pi))
def test_a_wave_shrunk_is_a_wave_with_the_filters_response(taps, omega):
    """y[n] = Re K(omega) e^{i (omega (2 n + 1) + phase)}: at twice the frequency, or at what that is an alias of."""
    y = fir_downsample(wave(omega, 24), taps)[0, 0, 6, 2:-2]
    expected = [(response(taps, omega) * cmath.exp(1j * (omega * (2 * n + 1) + 0.4))).real for n in range(2, 10)]
    torch.testing.assert_close(y, torch.tensor(expected, dtype=torch.float64), rtol=0, atol=1e-12)


@given(taps=st.sampled_from(TAPS), omega=st.floats(0.0, math.pi))
def test_a_wave_grown_is_a_wave_and_its_image(taps, omega):
    """Zeros between pixels make a second wave at omega/2 + pi of the same size; the filter is there to remove it."""
    y = fir_upsample(wave(omega, 16), taps)[0, 0, 12:20, 5:-5]
    expected = [
        sum((response(taps, w) * cmath.exp(1j * (w * n + 0.4))).real for w in (omega / 2, omega / 2 + math.pi))
        for n in range(5, 27)
    ]
    even, odd = (2 * sum(taps[i::2]) / sum(taps) for i in (0, 1))  # along the other axis the wave is a constant
    if len(taps) % 4 == 0:  # the middle pair starts at an odd place of the list
        even, odd = odd, even
    for row, factor in ((y[0], even), (y[1], odd)):
        torch.testing.assert_close(row, factor * torch.tensor(expected, dtype=torch.float64), rtol=0, atol=1e-12)


def test_aliasing_in_numbers():
    """At three quarters of the old Nyquist frequency, above the new one at pi/2: |K| = cos(omega/2)^(len - 1).

    Keeping every second pixel turns such a wave into a coarse one at full size, means leave 38 %, the paper's filter 5.6 %.
    """
    omega = 3 * math.pi / 4
    x = wave(omega, 64)
    inside = (0, 0, 16, slice(4, -4))

    def size(y):  # a wave at 2 omega, which is 3 pi/2, an alias of pi/2: neighbours are a quarter turn apart
        return (y[inside][:-1] ** 2 + y[inside][1:] ** 2).mean().sqrt().item()

    assert size(x[:, :, ::2, ::2]) == pytest.approx(1.0, abs=1e-12)
    assert size(Down(None)(x)) == pytest.approx(math.cos(omega / 2), abs=1e-12)
    assert math.cos(omega / 2) == pytest.approx(0.3827, abs=5e-5)
    assert size(fir_downsample(x)) == pytest.approx(math.cos(omega / 2) ** 3, abs=1e-12)
    assert math.cos(omega / 2) ** 3 == pytest.approx(0.0560, abs=5e-5)
    assert size(fir_downsample(x, (1, 5, 10, 10, 5, 1))) == pytest.approx(math.cos(omega / 2) ** 5, abs=1e-12)


def test_the_filter_forgets_where_a_pixel_was(generator):
    """Moving a picture by one pixel: without a filter the shrunk picture is another one, with it nearly the same."""
    x = torch.zeros(1, 1, 32, 32, dtype=torch.float64)
    x[0, 0, ::2, ::2] = 1.0  # every second pixel: grey, seen from afar
    for shift in (0, 1):
        moved = x.roll(shift, 3)
        assert moved[:, :, ::2, ::2].mean() == 1 - shift
        torch.testing.assert_close(
            fir_downsample(moved)[0, 0, 2:-2, 2:-2], torch.full((12, 12), 0.25).double(), **EXACT
        )


# --- kinds of input ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("function", [fir_downsample, fir_upsample, Down(), Up(), Down(None), Up(None)])
def test_channels_do_not_mix_and_layout_does_not_matter(function, generator):
    x = images(generator, 2, 5, 6, 6).float()
    y = function(x)
    for c in range(5):
        torch.testing.assert_close(function(x[:, c : c + 1]), y[:, c : c + 1], rtol=0, atol=1e-6)
    torch.testing.assert_close(function(x.contiguous(memory_format=torch.channels_last)), y, rtol=0, atol=1e-6)


def test_dtypes_are_kept(generator):
    x = images(generator, 1, 2, 4, 4)
    for dtype in (torch.float64, torch.float32, torch.bfloat16):
        for function in (fir_downsample, fir_upsample):
            y = function(x.to(dtype))
            assert y.dtype == dtype
            # bfloat16 has 8 bits; taps such as 9/64 are exact in it, the input is what was rounded
            torch.testing.assert_close(y.double(), function(x), rtol=0, atol=4 * torch.finfo(dtype).eps)


def test_the_kernel_sums_to_one():
    for taps in TAPS:
        kernel = fir_kernel(taps)
        assert kernel.dtype == torch.float64
        assert float(kernel.sum()) == pytest.approx(1.0, abs=1e-15)
        k = torch.tensor(taps, dtype=torch.float64) / sum(taps)
        torch.testing.assert_close(kernel, torch.outer(k, k), rtol=0, atol=1e-16)


@pytest.mark.parametrize("make", [fir_kernel, Down, Up, lambda taps: fir_downsample(torch.zeros(1, 1, 4, 4), taps)])
@pytest.mark.parametrize("taps, error, message", [
    ((1, 2, 1), ValueError, r"taps: needs an even number of finite taps whose sum is not 0, got \(1, 2, 1\)"),
    ((), ValueError, "taps: needs an even"), ((1,), ValueError, "taps: needs an even"),
    ((1, -1), ValueError, "whose sum is not 0"), ((1, float("nan")), ValueError, "finite"),
    ((1, float("inf")), ValueError, "finite"), (4, TypeError, r"taps: needs taps, numbers in a row .*got 4"),
    ("abcd", TypeError, "got 'abcd'"),
])  # fmt: skip
def test_bad_taps_are_refused(make, taps, error, message):
    with pytest.raises(error, match=message):
        make(taps)


def test_bad_images_are_refused():
    for shrink in (fir_downsample, Down(), Down(None)):
        with pytest.raises(ValueError, match=r"x: needs an even height and width to be halved, got \(4, 5\)"):
            shrink(torch.zeros(1, 1, 4, 5))
    for function in (fir_downsample, fir_upsample, Down(), Up(), Down(None), Up(None)):
        with pytest.raises(ValueError, match=r"x: needs images of shape \(batch, .*got \(3, 4, 4\)"):
            function(torch.zeros(3, 4, 4))
        with pytest.raises(TypeError, match="x: needs floating-point images, got torch.uint8"):
            function(torch.zeros(1, 3, 4, 4, dtype=torch.uint8))
