"""The average against the closed form of its recursion."""

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from sdelib.ema import EMA


class One(nn.Module):
    """One weight, one frozen table, one counter."""

    def __init__(self, value=0.0):
        super().__init__()
        self.w = nn.Parameter(torch.tensor([value], dtype=torch.float64))
        self.register_buffer("table", torch.tensor([1.5]))
        self.register_buffer("count", torch.tensor(0))


def follow(values, decay):
    net = One(values[0])
    ema = EMA(net, decay=decay)
    for value in values[1:]:
        with torch.no_grad():
            net.w.fill_(value)
            net.count.add_(1)
        ema.update(net)
    return net, ema


@given(n=st.integers(0, 60), decay=st.floats(0.0, 0.9999), seed=st.integers(0, 99))
def test_average_is_the_weighted_mean_it_says(n, decay, seed):
    """average_n = prod d_j w_0 + sum_k (1 - d_k) prod_{j > k} d_j w_k; the weights sum to 1."""
    values = torch.randn(n + 1, generator=torch.Generator().manual_seed(seed), dtype=torch.float64).tolist()
    d = [1.0] + [min(decay, (1 + k) / (10 + k)) for k in range(1, n + 1)]
    weights = [(1.0 if k == 0 else 1 - d[k]) * math.prod(d[k + 1 :]) for k in range(n + 1)]
    assert sum(weights) == pytest.approx(1.0, abs=1e-12)
    _, ema = follow(values, decay)
    expected = sum(w * v for w, v in zip(weights, values, strict=True))
    assert float(ema.average["w"]) == pytest.approx(expected, abs=1e-12)


def test_warm_up_in_closed_form():
    """While (1+n)/(10+n) is the smaller, prod_{j=1..n} (1+j)/(10+j) = (n+1)! 10!/(n+10)! of the start is left.

    Starting at 1 and fed zeros, the average is just that.
    """
    for n in (1, 2, 8, 40):
        _, ema = follow([1.0] + [0.0] * n, 0.9999)
        left = math.factorial(n + 1) * math.factorial(10) / math.factorial(n + 10)
        assert float(ema.average["w"]) == pytest.approx(left, rel=1e-12)
    _, plain = follow([1.0] + [0.0] * 8, 0.1)  # a decay below 2/11 is never warmed up: 0.1^8
    assert float(plain.average["w"]) == pytest.approx(1e-8, rel=1e-12)


def test_buffers_are_copied_not_averaged():
    net, ema = follow([0.0, 1.0, 2.0], 0.9)
    assert int(ema.average["count"]) == 2
    assert torch.equal(ema.average["table"], net.table)


def test_swapping_puts_everything_back_even_after_an_error():
    net, ema = follow([0.0, 1.0, 4.0], 0.5)
    own, average = net.w.item(), float(ema.average["w"])
    assert own != average
    with ema.swapped(net) as inside:
        assert inside is net
        assert net.w.item() == average
        with torch.no_grad():
            net.w.add_(100.0)
    assert net.w.item() == own
    assert float(ema.average["w"]) == average  # what happens inside leaves no trace in the average either
    with pytest.raises(RuntimeError, match="stop"), ema.swapped(net):
        raise RuntimeError("stop")
    assert net.w.item() == own
    ema.copy_to(net)
    assert net.w.item() == average


def test_a_saved_average_goes_on_as_if_nothing_had_happened():
    values = [0.3, 1.0, -2.0, 0.5, 4.0, 1.0]
    _, whole = follow(values, 0.99)
    _, first = follow(values[:3], 0.99)
    saved = first.state_dict()
    second = EMA(One(123.0), decay=0.5)
    second.load_state_dict(saved)
    first.average["w"].zero_()  # the saved copy is a copy
    net = One()
    for value in values[3:]:
        with torch.no_grad():
            net.w.fill_(value)
        second.update(net)
    assert torch.equal(second.average["w"], whole.average["w"])
    assert (second.decay, second.updates) == (0.99, 5)


def test_bad_input_is_refused():
    for decay in (-0.1, 1.0, math.nan):
        with pytest.raises(ValueError, match=r"decay: needs a number in \[0, 1\)"):
            EMA(One(), decay=decay)
    ema = EMA(One())
    with pytest.raises(ValueError, match="module: .* differs in .*weight"):
        ema.update(nn.Linear(2, 2))
    with pytest.raises(ValueError, match="state: .* differs in w"):
        ema.load_state_dict({"decay": 0.9, "updates": 1, "average": {**ema.average, "w": torch.zeros(3)}})
