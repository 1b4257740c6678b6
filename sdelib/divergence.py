"""Divergence of a field: the trace of its Jacobian, exactly or by random probes, with one forward pass.

tr J = sum_d e_d^T J e_d needs D backward passes; E[v^T J v] = tr J for probes v of mean 0 and covariance I (Hutchinson 1989)
needs one (paper section 4.3 and appendix D.2). Both reuse the single forward pass that also gives the field's value.
"""

from __future__ import annotations

import torch

from sdelib import ops
from sdelib.types import Data, PerItem, ScoreFn, Time


def value_and_divergence(fn: ScoreFn, x: Data, t: Time, *, probe: Data | None = None) -> tuple[Data, PerItem]:
    r"""fn(x, t) and its divergence, an item at a time, from one call of ``fn``.

    .. math:: \nabla \cdot f &= \sum_d \frac{\partial f_d}{\partial x_d} = \operatorname{tr} J \\
        &= \mathbb{E}\big[ v^\top J v \big] \quad \text{if } \mathbb{E}[v v^\top] = I

    Args:
        fn: a field, shaped as ``x``, in which no item depends on another.
        x: data of any shape.
        t: (batch,).
        probe: v of x's shape: the estimate v^T J v. ``None``: the exact trace, one backward pass for each of the D dimensions.

    Returns:
        Value and divergence; part of the graph where gradients are enabled, so that losses can be trained through them.

    Raises:
        ValueError: if ``probe`` or the field does not have x's shape.
        RuntimeError: under ``torch.inference_mode``, where a derivative would silently be 0.
    """
    if torch.is_inference_mode_enabled():
        raise RuntimeError("a divergence needs derivatives, which torch.inference_mode() forbids; use torch.no_grad()")
    if probe is not None:
        ops.check_like(probe, x, "probe")
    keep = torch.is_grad_enabled()
    with torch.enable_grad():
        leaf = x if x.requires_grad else x.detach().requires_grad_()
        value = fn(leaf, t)
        ops.check_like(value, x, "fn")

        def pull(cotangent: Data, *, last: bool) -> Data:
            if not value.requires_grad:  # a constant field: its graph does not reach x
                return torch.zeros_like(x)
            (gradient,) = torch.autograd.grad(
                value, leaf, cotangent, create_graph=keep, retain_graph=keep or not last, allow_unused=True
            )
            return torch.zeros_like(x) if gradient is None else gradient

        if probe is not None:
            total = ops.sum_items(pull(probe, last=True) * probe)
        else:
            dims = x[0].numel()
            total = x.new_zeros(x.shape[0])
            for d in range(dims):
                unit = torch.zeros(x.shape[0], dims, dtype=x.dtype, device=x.device)
                unit[:, d] = 1.0
                row = pull(unit.reshape(x.shape), last=d == dims - 1)
                total = total + row.reshape(x.shape[0], dims)[:, d]
    return (value, total) if keep else (value.detach(), total.detach())


def divergence(fn: ScoreFn, x: Data, t: Time, *, probe: Data | None = None) -> PerItem:
    """The divergence alone: see :func:`value_and_divergence`.

    >>> divergence(lambda x, t: 3.0 * x, torch.ones(2, 5), torch.zeros(2))
    tensor([15., 15.])
    """
    return value_and_divergence(fn, x, t, probe=probe)[1]
