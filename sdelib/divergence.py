r"""Divergence of a field: the trace of its Jacobian, exactly or by random probes, with one forward pass.

::

    tr J = sum_d e_d^T J e_d                                    D backward passes
    tr J = E[v^T J v]  for probes with E[v v^T] = I             one backward pass a probe (Hutchinson 1989)

(paper section 4.3 and appendix D.2). Both reuse the single forward pass that also gives the field's value. With S = (J + J^T)/2 a
probe's estimate has the variance ::

    signs (Rademacher)     2 sum_{i != j} S_ij^2
    normal (Gaussian)      2 sum_{i, j}   S_ij^2

so signs are never worse, and exact for a field whose coordinates do not mix. A mean over P probes has 1/P of it.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from sdelib import ops
from sdelib.types import Data, Generator, PerItem, PerProbe, Probe, ScoreFn, Time

PROBES = ("rademacher", "gaussian")


def probes(x0: Data, n: int = 1, *, kind: str = "rademacher", generator: Generator | None = None) -> Probe:
    r"""Directions v for estimates v^T J v of a trace: independent numbers of mean 0 and variance 1.

    Args:
        x0: data that the probes fit: their shape, dtype and device.
        n: how many probes an item, P.
        kind: "rademacher", each number 1 or -1 with probability 1/2, or "gaussian", standard normal.
        generator: where they come from; the signs are those of normal numbers.

    Returns:
        (P, batch, *shape).

    >>> probes(torch.zeros(4, 3, 8, 8), 10).shape
    torch.Size([10, 4, 3, 8, 8])

    Raises:
        TypeError: if ``x0`` is not floating-point.
        ValueError: for another ``kind``, or if ``n`` < 1.
    """
    ops.check_data(x0, "x0")
    ops.check_count(n, "n", "probes")
    ops.check_choice(kind, PROBES, "kind")
    v = ops.randn((n, *x0.shape), generator=generator, dtype=x0.dtype, device=x0.device)
    return v if kind == "gaussian" else torch.where(v < 0, -1.0, 1.0).to(v)


def value_and_divergence(fn: ScoreFn, x: Data, t: Time, *, probe: Probe | None = None) -> tuple[Data, PerProbe]:
    r"""fn(x, t) and its divergence, an item at a time, from one call of ``fn``.

    .. math:: \nabla \cdot f &= \sum_d \frac{\partial f_d}{\partial x_d} = \operatorname{tr} J \\
        &= \mathbb{E}\big[ v^\top J v \big] \quad \text{if } \mathbb{E}[v v^\top] = I

    Args:
        fn: a field, shaped as ``x``, in which no item depends on another.
        x: data of any shape.
        t: (batch,).
        probe: v of x's shape: the estimate v^T J v; or (P, *x.shape), P such estimates by one forward and P backward passes.
            ``None``: the exact trace, one backward pass for each of the D dimensions. :func:`probes` draws them.

    Returns:
        Value and divergence, (batch,) or (P, batch), the latter in at least float32; part of the graph where gradients are
        enabled, so that losses can be trained through them.

    Raises:
        ValueError: if ``probe`` or the field does not have x's shape.
        RuntimeError: under ``torch.inference_mode``, where a derivative would silently be 0.
    """
    if torch.is_inference_mode_enabled():
        raise RuntimeError("a divergence needs derivatives, which torch.inference_mode() forbids; use torch.no_grad()")
    if probe is not None:
        check_probe(probe, x)
    keep = torch.is_grad_enabled()
    with torch.enable_grad():
        leaf = x if x.requires_grad else x.detach().requires_grad_()
        value = fn(leaf, t)
        ops.check_like(value, x, "fn")

        def pull(cotangent: Data, *, last: bool) -> Data:
            if not value.requires_grad:  # a constant field: its graph does not reach x
                return torch.zeros_like(x)
            (gradient,) = torch.autograd.grad(
                value, leaf, cotangent.to(value), create_graph=keep, retain_graph=keep or not last, allow_unused=True
            )
            return torch.zeros_like(x) if gradient is None else gradient

        total = _trace(pull, x) if probe is None else _estimates(pull, x, probe)
    return (value, total) if keep else (value.detach(), total.detach())


def _trace(pull: Callable[..., Data], x: Data) -> PerItem:
    """Row d of the Jacobian, and of it number d."""
    batch, dims = x.shape[0], x[0].numel()
    diagonal = []
    for d in range(dims):
        unit = torch.zeros(batch, dims, dtype=x.dtype, device=x.device)
        unit[:, d] = 1.0
        row = pull(unit.reshape(x.shape), last=d == dims - 1)
        diagonal.append(row.reshape(batch, dims)[:, d])
    return torch.stack(diagonal, 1).to(_summed(x)).sum(1)


def _estimates(pull: Callable[..., Data], x: Data, probe: Probe) -> PerProbe:
    """v^T (J^T v) for each probe."""
    rows = probe.reshape(-1, *x.shape)
    found = [ops.sum_items((pull(v, last=i == len(rows) - 1) * v).to(_summed(x))) for i, v in enumerate(rows.unbind(0))]
    return torch.stack(found) if probe.ndim > x.ndim else found[0]


def _summed(x: Data) -> torch.dtype:
    """What terms are added up in: 16 bits are too few."""
    return torch.promote_types(x.dtype, torch.float32)


def check_probe(probe: Probe, x: Data, name: str = "x") -> None:
    """Refuse (ValueError) a probe that has neither x's shape nor is a row of such; ``name`` is what x is called."""
    if isinstance(probe, Tensor) and probe.is_floating_point():
        if probe.shape == x.shape or (probe.shape[1:] == x.shape and len(probe) > 0):
            return
        got = str(tuple(probe.shape))
    else:
        got = str(probe.dtype) if isinstance(probe, Tensor) else type(probe).__name__
    raise ValueError(
        f"probe: needs the shape of {name}, {tuple(x.shape)}, or that of P probes, (P, *{name}.shape), in floats, got {got}"
    )


def divergence(fn: ScoreFn, x: Data, t: Time, *, probe: Probe | None = None) -> PerProbe:
    """The divergence alone: see :func:`value_and_divergence`.

    >>> divergence(lambda x, t: 3.0 * x, torch.ones(2, 5), torch.zeros(2))
    tensor([15., 15.])
    """
    return value_and_divergence(fn, x, t, probe=probe)[1]
