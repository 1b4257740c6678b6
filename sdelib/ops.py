"""The few tensor operations everybody shares, and the checks at the library's doors.

``bcast`` is the only place that appends axes to a time, ``randn_like`` the only place that draws normal noise.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from numbers import Integral, Real

import torch
from torch import Tensor

from sdelib.types import Coefficient, Data, Generator, PerItem, Time


def bcast(t: Tensor, x: Data) -> Tensor:
    """Give a per-item number the trailing axes, dtype and device of ``x``, so that they multiply.

    A number computed in float64 does not promote float32 data: it is cast here, after it was computed.

    >>> bcast(torch.tensor([1.0, 2.0], dtype=torch.float64), torch.ones(2, 3, 8, 8)).shape
    torch.Size([2, 1, 1, 1])
    """
    t = t.to(dtype=x.dtype, device=x.device)
    return t.reshape(t.shape + (1,) * (x.ndim - t.ndim)) if t.ndim else t


def randn_like(x: Data, generator: Generator | None = None) -> Data:
    """Standard normal noise of ``x``'s shape, from ``generator`` (``None``: torch's default one).

    The numbers are drawn on the generator's own device and then moved, so a CPU generator gives the same
    bits to a model on any device.
    """
    return randn(x.shape, generator=generator, dtype=x.dtype, device=x.device, like=x)


def randn(
    shape: Sequence[int],
    *,
    generator: Generator | None = None,
    dtype: torch.dtype | None = None,
    device: torch.device | str | None = None,
    like: Tensor | None = None,
) -> Tensor:
    """Standard normal noise of a given shape; see :func:`randn_like`."""
    if generator is None:
        return torch.randn(shape, dtype=dtype, device=device)
    if isinstance(generator, torch.Generator):
        noise = torch.randn(shape, generator=generator, dtype=dtype, device=generator.device)
        return noise if device is None else noise.to(device)
    if not hasattr(generator, "randn_like"):
        raise TypeError(
            f"generator: needs a torch.Generator, an object with randn_like(x), or None, got {type(generator).__name__}; "
            "a seed goes in as torch.Generator().manual_seed(seed)"
        )
    return generator.randn_like(torch.empty(shape, dtype=dtype, device=device) if like is None else like)


def rand(
    n: int,
    *,
    generator: Generator | None = None,
    dtype: torch.dtype | None = None,
    device: torch.device | str | None = None,
) -> Time:
    """``n`` uniform numbers in [0, 1), drawn on the generator's device and then moved."""
    if generator is not None and not isinstance(generator, torch.Generator):
        raise TypeError(f"generator: uniform numbers need a torch.Generator or None, got {type(generator).__name__}")
    u = torch.rand(n, generator=generator, dtype=dtype, device=None if generator is None else generator.device)
    return u if device is None else u.to(device)


def sum_items(x: Data) -> PerItem:
    """Sum over everything but the batch.

    >>> sum_items(torch.ones(2, 3, 4, 4))
    tensor([48., 48.])
    """
    return x.reshape(x.shape[0], -1).sum(1)


def time_grid(n: int, *, t_min: float, T: float = 1.0) -> Time:
    """The sampling grid: ``n`` times evenly from ``T`` to ``t_min``, then 0; float64, on the CPU.

    Walking it takes ``n`` steps and ``n`` score evaluations, none of them below ``t_min``: the last step leaves
    ``t_min`` for 0, where its mean is the denoised sample.

    >>> time_grid(3, t_min=0.2)
    tensor([1.0000, 0.6000, 0.2000, 0.0000], dtype=torch.float64)

    Raises:
        ValueError: if ``n`` < 1 or not 0 < ``t_min`` < ``T``. (With ``n`` = 1 the only time is ``T``.)
    """
    check_count(n, "n", "steps")
    if not (math.isfinite(T) and 0.0 < t_min < T):
        raise ValueError(f"t_min: needs 0 < t_min < T, got t_min={t_min!r} with T={T!r}")
    ends = torch.linspace(T, t_min, n, dtype=torch.float64)
    return torch.cat([ends, torch.zeros(1, dtype=torch.float64)])


def as_time(t: Tensor | float) -> Coefficient:
    """A tensor of times: tensors pass through, plain numbers become float64 so that nothing is lost."""
    return t if isinstance(t, Tensor) else torch.as_tensor(t, dtype=torch.float64)


# --- checks at the door: each names the argument, the value and what is allowed ---------------------------------


def check_data(x: Tensor, name: str = "x") -> None:
    """Refuse what is not a finite floating-point batch (TypeError for the type, ValueError for the values)."""
    if not isinstance(x, Tensor):
        raise TypeError(f"{name}: needs a torch.Tensor of shape (batch, *shape), got {type(x).__name__}")
    if not x.is_floating_point():
        raise TypeError(f"{name}: needs floating-point data, got {x.dtype}; convert it first, e.g. {name}.float()")
    if x.ndim < 1 or x.shape[0] < 1:
        raise ValueError(f"{name}: needs shape (batch, *shape) with at least one item, got {tuple(x.shape)}")
    bad = bad_items(x)
    if bad:
        raise ValueError(f"{name}: needs finite values, got NaN or infinity in {bad} of {x.shape[0]} items")


def bad_items(x: Data) -> int:
    """How many items of a batch hold NaN or infinity."""
    return int((~torch.isfinite(x.detach().reshape(x.shape[0], -1)).all(1)).sum())


def check_function(fn: object, name: str, of: str = "") -> None:
    """Refuse what cannot be called, and guess what was meant: an instance of a class, or a law's score."""
    if callable(fn) and not isinstance(fn, type):
        return
    got = f"the class {fn.__name__}" if isinstance(fn, type) else type(fn).__name__
    hint = ""
    if isinstance(fn, type):
        hint = f"; an instance is made by {fn.__name__}(...)"
    elif hasattr(fn, "score_fn"):
        hint = "; a law's score along a noising is law.score_fn(noising)"
    raise TypeError(f"{name}: needs a function{of and f' of {of}'}, got {got}{hint}")


def check_like(a: Tensor, x: Tensor, name: str, other: str = "x") -> None:
    """Refuse a tensor whose shape differs from another's."""
    if not isinstance(a, Tensor) or a.shape != x.shape:
        got = tuple(a.shape) if isinstance(a, Tensor) else type(a).__name__
        raise ValueError(f"{name}: needs the shape of {other}, {tuple(x.shape)}, got {got}")


def check_time(t: Tensor, batch: int, *, low: float, high: float, name: str = "t") -> None:
    """Refuse times that are not ``(batch,)``, floating-point and inside ``[low, high]``."""
    if not isinstance(t, Tensor) or not t.is_floating_point():
        got = t.dtype if isinstance(t, Tensor) else type(t).__name__
        raise TypeError(f"{name}: needs a floating-point tensor of times, got {got}")
    if t.shape != (batch,):
        raise ValueError(f"{name}: needs one time an item, shape ({batch},), got {tuple(t.shape)}")
    # A float32 time may sit half a unit in the last place outside a bound that was computed in float64.
    slack = 4 * torch.finfo(t.dtype).eps * abs(high)
    smallest, largest = float(t.min()), float(t.max())
    if not (smallest >= low - slack and largest <= high + slack):
        raise ValueError(f"{name}: needs times in [{low:g}, {high:g}], got values from {smallest:g} to {largest:g}")


def check_grid(times: Sequence[float] | Tensor, name: str = "times") -> Time:
    """A grid of at least two finite times that rise or fall strictly, as float64 on the CPU; refuse any other."""
    grid = torch.as_tensor(times, dtype=torch.float64, device="cpu")
    if grid.ndim != 1 or len(grid) < 2:
        raise ValueError(f"{name}: needs a grid of at least two times, got shape {tuple(grid.shape)}")
    if not bool(torch.isfinite(grid).all()):
        first = int((~torch.isfinite(grid)).nonzero()[0])
        raise ValueError(f"{name}: needs finite times, got {float(grid[first])} at position {first}")
    steps = grid.diff()
    if not (bool((steps > 0).all()) or bool((steps < 0).all())):
        wrong = int((steps * torch.sign(grid[-1] - grid[0]) <= 0).nonzero()[0])
        raise ValueError(
            f"{name}: need to rise or fall strictly, got {float(grid[wrong]):g} then {float(grid[wrong + 1]):g} "
            f"at position {wrong} of a grid from {float(grid[0]):g} to {float(grid[-1]):g}"
        )
    return grid


def check_count(value: int, name: str, what: str) -> None:
    """Refuse what is not a whole number of at least 1."""
    if isinstance(value, bool) or not isinstance(value, Integral) or value < 1:
        raise ValueError(f"{name}: needs a whole number of {what}, at least 1, got {value!r}")


def check_counts(values: Sequence[int], name: str, what: str) -> tuple[int, ...]:
    """The values as a tuple; refuse what is no row of whole numbers of at least 1."""
    try:
        row = tuple(values)
    except TypeError as error:
        raise TypeError(f"{name}: needs whole numbers in a row, such as (1, 2), got {values!r}") from error
    for value in row:
        check_count(value, name, what)
    return row


def check_span(low: float, high: float, low_name: str, high_name: str, *, allow_equal: bool = False) -> None:
    """Refuse two numbers that are not above zero and in this order."""
    check_positive(low, low_name)
    check_positive(high, high_name)
    if not (low <= high if allow_equal else low < high):
        sign = "<=" if allow_equal else "<"
        raise ValueError(
            f"{low_name}: needs {low_name} {sign} {high_name}, got {low_name}={low!r} and {high_name}={high!r}"
        )


def check_number(value: float, name: str) -> None:
    """Refuse what is not a real number."""
    if isinstance(value, bool) or not isinstance(value, Real):
        raise TypeError(f"{name}: needs a number, got {type(value).__name__}")


def check_positive(value: float, name: str) -> None:
    """Refuse a number that is not finite and above zero."""
    check_number(value, name)
    if not (math.isfinite(value) and value > 0):
        raise ValueError(f"{name}: needs a finite number above 0, got {value!r}")


def check_choice(value: object, allowed: Sequence[str], name: str) -> None:
    """Refuse a name that is not on the list."""
    if value not in allowed:
        raise ValueError(f"{name}: needs one of {', '.join(map(repr, allowed))}, got {value!r}")


def check_cells(levels: int, data_range: tuple[float, float]) -> tuple[float, float]:
    """The ends of a range that is cut into ``levels`` cells; refuse what is no such thing."""
    check_count(levels, "levels", "levels")
    try:
        low, high = data_range
    except (TypeError, ValueError) as error:
        raise ValueError(f"data_range: needs (low, high) with low < high, got {data_range!r}") from error
    for end in (low, high):
        check_number(end, "data_range")
    if not (math.isfinite(low) and math.isfinite(high) and low < high):
        raise ValueError(f"data_range: needs (low, high) with low < high, got {data_range!r}")
    return float(low), float(high)


def check_levels(x: Tensor, levels: int, name: str = "x") -> Tensor:
    """``x`` as int64; refuse what is not whole numbers from 0 to levels - 1."""
    if not isinstance(x, Tensor) or x.is_complex() or x.dtype == torch.bool:
        raise TypeError(
            f"{name}: needs a tensor of whole numbers, got {x.dtype if isinstance(x, Tensor) else type(x).__name__}"
        )
    whole = x.detach().long()
    wrong = x.detach() != whole if x.is_floating_point() else torch.zeros_like(whole, dtype=torch.bool)
    if bool(wrong.any()):
        raise ValueError(
            f"{name}: needs whole numbers from 0 to {levels - 1}, got {float(x[wrong][0]):g}; data already scaled to [0, 1] were "
            f"once (x * {levels - 1}).round()"
        )
    if x.numel() and not (int(whole.min()) >= 0 and int(whole.max()) < levels):
        raise ValueError(
            f"{name}: needs whole numbers from 0 to {levels - 1}, got values from {int(whole.min())} to {int(whole.max())}"
        )
    return whole
