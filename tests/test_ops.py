"""The shared tensor operations and the checks at the doors."""

import math

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from sdelib import ops
from sdelib.ops import bcast, randn_like, time_grid

f64 = torch.float64


@pytest.mark.parametrize("shape", [(3,), (3, 2), (3, 1, 8, 8)])
def test_bcast_multiplies_items(shape):
    x, t = torch.randn(shape, generator=torch.Generator().manual_seed(0)), torch.tensor([0.0, -1.0, 2.5])
    expected = torch.stack([v * item for v, item in zip(t, x, strict=True)])
    assert torch.equal(bcast(t, x) * x, expected)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32, f64])
def test_float64_numbers_never_promote_data(dtype):
    x = torch.ones(2, 3, dtype=dtype)
    for t in (torch.tensor([0.5, 1.0], dtype=f64), torch.tensor(0.5, dtype=f64)):
        assert (bcast(t, x) * x).dtype == dtype


def test_bcast_of_one_number_is_that_number():
    assert float(bcast(torch.tensor(0.25, dtype=f64), torch.ones(4, 2))) == 0.25


# --- noise ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", [torch.float32, f64])
def test_same_generator_same_bits(dtype, untouched):
    x = torch.zeros(5, 2, 3, dtype=dtype)
    first, again = (randn_like(x, torch.Generator().manual_seed(7)) for _ in range(2))
    assert torch.equal(first, again)
    assert (first.dtype, first.shape) == (dtype, x.shape)
    assert not torch.equal(first, randn_like(x, torch.Generator().manual_seed(8)))


def test_no_generator_means_torchs_own():
    x = torch.zeros(4, 3)
    torch.manual_seed(3)
    ours = randn_like(x)
    torch.manual_seed(3)
    assert torch.equal(ours, torch.randn(4, 3))


def test_noise_is_standard_normal(generator):
    z = randn_like(torch.zeros(200_000, dtype=f64), generator)
    # Standard errors of mean and variance of n normals: 1/sqrt(n) and sqrt(2/n). 4.5 of them: chance 1e-5.
    assert abs(float(z.mean())) < 4.5 / math.sqrt(len(z))
    assert abs(float(z.var()) - 1) < 4.5 * math.sqrt(2 / len(z))


def test_a_noise_source_takes_the_generators_place():
    class Ones:
        def randn_like(self, x):
            return torch.ones_like(x)

    x = torch.zeros(2, 3, dtype=f64)
    assert torch.equal(randn_like(x, Ones()), torch.ones_like(x))
    assert torch.equal(ops.randn((2, 3), generator=Ones(), dtype=f64), torch.ones_like(x))


def test_a_seed_is_no_generator():
    with pytest.raises(TypeError, match=r"generator: needs a torch.Generator, .* got int; a seed goes in as"):
        randn_like(torch.zeros(2), 42)
    with pytest.raises(TypeError, match=r"generator: uniform numbers need a torch.Generator or None, got int"):
        ops.rand(3, generator=42)


# --- the grid ---------------------------------------------------------------------------------------------------


@given(n=st.integers(2, 3000), T=st.floats(0.1, 10.0), share=st.floats(1e-6, 0.9))
def test_time_grid_is_even_from_T_to_t_min_then_0(n, T, share):
    t_min = share * T
    grid = time_grid(n, t_min=t_min, T=T)
    assert (grid.dtype, grid.device.type, len(grid)) == (f64, "cpu", n + 1)
    assert (float(grid[0]), float(grid[-1])) == (T, 0.0)
    steps = grid.diff()
    # linspace in float64 rounds each point to within an ulp or two of T
    assert abs(float(grid[-2]) - t_min) <= 4e-16 * T
    assert float((steps[:-1] + (T - t_min) / (n - 1)).abs().max()) <= 1e-15 * T
    assert bool((steps < 0).all())


def test_time_grid_of_one_step_is_T_then_0():
    assert time_grid(1, t_min=0.1, T=2.0).tolist() == [2.0, 0.0]


def test_numpy_numbers_are_numbers():
    assert torch.equal(time_grid(np.int64(5), t_min=np.float32(0.25)), time_grid(5, t_min=0.25))
    ops.check_positive(np.float32(0.5), "x")


@pytest.mark.parametrize("n", [0, -3, 2.0, True, "5", None])
def test_time_grid_refuses_n(n):
    with pytest.raises(ValueError, match=rf"n: needs a whole number of steps, at least 1, got {n!r}"):
        time_grid(n, t_min=0.1)


@pytest.mark.parametrize(
    "t_min, T", [(0.0, 1.0), (-0.1, 1.0), (1.0, 1.0), (1.5, 1.0), (math.nan, 1.0), (0.1, math.inf)]
)
def test_time_grid_refuses_t_min(t_min, T):
    with pytest.raises(ValueError, match=rf"t_min: needs 0 < t_min < T, got t_min={t_min!r} with T={T!r}"):
        time_grid(10, t_min=t_min, T=T)


# --- the doors --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "x, error, message",
    [
        ([1.0], TypeError, r"x0: needs a torch.Tensor of shape \(batch, \*shape\), got list"),
        (
            torch.ones(2, 3, dtype=torch.long),
            TypeError,
            r"x0: needs floating-point data, got torch.int64; .* x0.float\(\)",
        ),
        (torch.ones(2, dtype=torch.complex64), TypeError, "x0: needs floating-point data, got torch.complex64"),
        (torch.tensor(1.0), ValueError, r"x0: needs shape \(batch, \*shape\) with at least one item, got \(\)"),
        (torch.ones(0, 2), ValueError, r"at least one item, got \(0, 2\)"),
        (
            torch.tensor([[1.0, math.nan], [0.0, 1.0]]),
            ValueError,
            "x0: needs finite values, got NaN or infinity in 1 of 2 items",
        ),
        (torch.full((3, 2, 2), math.inf), ValueError, "in 3 of 3 items"),
    ],
)
def test_check_data_refuses(x, error, message):
    with pytest.raises(error, match=message):
        ops.check_data(x, "x0")


def test_check_like_refuses_another_shape():
    with pytest.raises(ValueError, match=r"noise: needs the shape of x0, \(2, 3\), got \(2, 1\)"):
        ops.check_like(torch.ones(2, 1), torch.ones(2, 3), "noise", "x0")
    with pytest.raises(ValueError, match=r"noise: needs the shape of x, \(2, 3\), got float"):
        ops.check_like(1.0, torch.ones(2, 3), "noise")


@pytest.mark.parametrize(
    "t, error, message",
    [
        (0.5, TypeError, "t: needs a floating-point tensor of times, got float"),
        (torch.tensor([1, 0]), TypeError, "t: needs a floating-point tensor of times, got torch.int64"),
        (torch.tensor(0.5), ValueError, r"t: needs one time an item, shape \(2,\), got \(\)"),
        (torch.ones(2, 1), ValueError, r"t: needs one time an item, shape \(2,\), got \(2, 1\)"),
        (torch.tensor([0.5, 1.1]), ValueError, r"t: needs times in \[0.001, 1\], got values from 0.5 to 1.1"),
        (torch.tensor([0.0, 1.0]), ValueError, "got values from 0 to 1"),
        (torch.tensor([math.nan, 1.0]), ValueError, "got values from nan to nan"),
    ],
)
def test_check_time_refuses(t, error, message):
    with pytest.raises(error, match=message):
        ops.check_time(t, 2, low=1e-3, high=1.0)


def test_check_time_forgives_float32_rounding():
    # 1e-3 in float32 is above 1e-3, 0.3 is 1.2e-8 above 0.3: times computed in float64 and cast must pass.
    for bound in (1e-3, 0.1, 0.3, 0.7):
        ops.check_time(torch.tensor([bound]), 1, low=bound, high=bound)


@pytest.mark.parametrize(
    "times, message",
    [
        ([0.5], r"times: needs a grid of at least two times, got shape \(1,\)"),
        ([[0.5, 0.1]], r"got shape \(1, 2\)"),
        ([1.0, math.nan, 0.0], "times: needs finite times, got nan at position 1"),
        ([1.0, 0.5, 0.5, 0.0], "times: need to rise or fall strictly, got 0.5 then 0.5 at position 1"),
        ([0.0, 0.5, 0.4, 1.0], "got 0.5 then 0.4 at position 1 of a grid from 0 to 1"),
        ([1.0, 0.0, 1.0], "got .* at position 0 of a grid from 1 to 1"),
    ],
)
def test_check_grid_refuses(times, message):
    with pytest.raises(ValueError, match=message):
        ops.check_grid(times)


def test_check_grid_gives_float64():
    assert ops.check_grid([0, 1, 3]).dtype == f64
    assert torch.equal(
        ops.check_grid(torch.tensor([1.0, 0.5], dtype=torch.float32)), torch.tensor([1.0, 0.5], dtype=f64)
    )


@pytest.mark.parametrize("value", [0.0, -1, math.nan, math.inf])
def test_check_positive_refuses_the_value(value):
    with pytest.raises(ValueError, match=f"snr: needs a finite number above 0, got {value!r}"):
        ops.check_positive(value, "snr")


@pytest.mark.parametrize("value", ["1", None, True, torch.tensor(1.0)])
def test_check_positive_refuses_the_type(value):
    with pytest.raises(TypeError, match=f"snr: needs a number, got {type(value).__name__}"):
        ops.check_positive(value, "snr")


def test_check_choice_lists_what_is_allowed():
    with pytest.raises(ValueError, match="norm: needs one of 'batch', 'sample', got 'both'"):
        ops.check_choice("both", ("batch", "sample"), "norm")
