r"""Control without retraining (paper section 5, appendix I): what is known about a sample is brought in while it is drawn.

Two ways. A *constraint* overwrites what is known after every step, by a draw of the forward process from it::

    known part:  x(t) = scale(t) y + std(t) z,      unknown part: as the step left it.

It is simple, needs no gradient, and is biased: while the unknown part is drawn it hears y through that draw alone. ``resample``
and correctors under the constraint mend it (:mod:`sdelib.steps`). *Guidance* changes the score by a term, and is exact if the
term is (paper eq. 14)::

    grad log p_t(x | y) = grad log p_t(x) + grad log p_t(y | x).

For a class y the term is a classifier's gradient (here); for a linear measurement see :mod:`sdelib.inverse`. What is known need
not be pixels: in an orthonormal basis it is any group of coordinates, such as the grey of a picture without its colours.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor

from sdelib import ops
from sdelib.score import grad_of
from sdelib.sde import Noising
from sdelib.types import Constraint, Data, Generator, PerItem, ScoreFn, Stepped, Time

Classifying = Callable[[Data, Time], Tensor]
"""``classifier(x, t)`` -> logits (batch, classes)."""


def grey_basis() -> Float[Tensor, "3 3"]:
    r"""An orthonormal mix of the three colour channels, grey first: float64, a channel of the mix in every row.

    .. math:: B = \begin{pmatrix} 1/\sqrt3 & 1/\sqrt3 & 1/\sqrt3 \\
        1/\sqrt2 & -1/\sqrt2 & 0 \\
        1/\sqrt6 & 1/\sqrt6 & -2/\sqrt6 \end{pmatrix}

    The first mixed channel is sqrt(3) times the mean of red, green and blue; the others, red minus green and yellow minus blue,
    are 0 for a grey picture. White noise stays white noise, as B is orthonormal: the reason why grey can be known, and colours
    not, at every noise level (paper appendix I.3). :func:`mix` applies it.
    """
    rows = torch.tensor([[1.0, 1.0, 1.0], [1.0, -1.0, 0.0], [1.0, 1.0, -2.0]], dtype=torch.float64)
    return rows / rows.norm(dim=1, keepdim=True)


def mix(basis: Tensor, x: Data) -> Data:
    r"""The coordinates of x in a basis: along the channel axis, or of the flattened item, whichever fits.

    .. math:: u = B x

    Args:
        basis: (C, C), where the first axis of an item has length C, or (D, D), where an item has D numbers. Cast to x's dtype.
        x: (batch, C, *rest), or (batch, *shape) with D numbers an item.

    Returns:
        u, shaped as x. With an orthonormal basis ``mix(basis.mT, u)`` is x again.

    Raises:
        ValueError: if neither axis nor item has the basis' length.

    >>> mix(grey_basis(), torch.ones(1, 3, 2, 2))[0, :, 0, 0].tolist()
    [1.73205..., 0.0, 0.0]
    """
    n = basis.shape[0]
    if x.ndim > 1 and x.shape[1] == n:
        return torch.einsum("ij,bj...->bi...", basis.to(x), x)
    if x[0].numel() == n:
        return (x.reshape(len(x), n) @ basis.to(x).mT).reshape(x.shape)
    raise ValueError(
        f"basis: needs the length of x's channel axis or of its items, got {tuple(basis.shape)} for x of shape {tuple(x.shape)}"
    )


def observe(noising: Noising, y: Tensor, mask: Tensor, basis: Tensor | None = None) -> Constraint:
    r"""What is known of the clean data, as a constraint on a step: imputation by replacement (paper section 5, appendix I.2).

    .. math:: x(t) &= \mathrm{scale}(t)\, y + \mathrm{std}(t)\, z, \\
        \text{mean} &= \mathrm{scale}(t)\, y

    where ``mask`` is 1, with fresh z at every call; elsewhere x and mean stay as they are. At t = 0 x is y itself there. With a
    ``basis`` this happens to the coordinates Bx and By: with :func:`grey_basis` and a mask that is 1 at the first channel it is
    colourisation (appendix I.3); with a basis of the flattened item, whose first vectors are means of blocks, it is a larger
    picture from a small one.

    ``project(step, observe(...))`` puts it behind a step, :func:`impose` makes the state to begin with.

    Args:
        noising: an SDE or a chain.
        y: the known data, broadcastable to x; what stands where the mask is 0 does not matter, and may be NaN if ``basis`` is not
            given.
        mask: True or 1 where y is known, broadcastable to x.
        basis: orthonormal, with a basis vector in every row; see :func:`mix` for its shape.

    Raises:
        TypeError: if ``noising`` has no kernel, or ``y`` or ``mask`` is no tensor.
        ValueError: if ``mask`` holds other numbers than 0 and 1, y is not finite where it is known, shapes do not broadcast, or
            ``basis`` is not orthonormal.
    """
    if not isinstance(noising, Noising):
        raise TypeError(f"noising: needs a kernel to draw the known part from, which {type(noising).__name__} lacks")
    for name, value in (("y", y), ("mask", mask)):
        if not isinstance(value, Tensor):
            raise TypeError(f"{name}: needs a torch.Tensor that broadcasts to x, got {type(value).__name__}")
    if not bool(((mask == 0) | (mask == 1)).all()):
        raise ValueError(f"mask: needs True or 1 where y is known and False or 0 elsewhere, got {_odd(mask):g}")
    known = mask.bool()
    _check_known(y, known, basis)

    def constraint(stepped: Stepped, generator: Generator | None = None) -> Stepped:
        x, t = stepped.x, stepped.t
        clean, where = _like(y, x, "y"), _like(known, x, "mask").to(x.device)
        time = t.cpu().double()
        scale, std = torch.where(time == 0, 1.0, noising.scale(time)), noising.clean_std(time)
        mean = ops.bcast(scale, x) * (clean.to(x) if basis is None else mix(basis, clean.to(x)))
        # As a predictor does, draw nothing where nothing is added.
        noisy = mean + ops.bcast(std, x) * ops.randn_like(x, generator) if bool(std.any()) else mean
        return Stepped(_put(noisy, where, x, basis), _put(mean, where, stepped.mean, basis), t)

    return constraint


def impose(constraint: Constraint, x: Data, t: float | Time, *, generator: Generator | None = None) -> Data:
    """x at time t under a constraint: what sampling begins with.

    ``impose(known, sde.prior_sample(shape, generator=g), sde.T, generator=g)`` is noise everywhere, with as much of y in the
    known part as is left of it at time T; clean pixels among noise would be a state that no noisy picture is in.

    Args:
        constraint: for example :func:`observe`'s.
        x: (batch, *shape).
        t: one time, or one for each item, (batch,).
        generator: where the known part's noise comes from.

    Raises:
        TypeError: if the constraint cannot be called or x is not floating-point.
        ValueError: if x is not finite, or ``t`` has another shape.
    """
    ops.check_function(constraint, "constraint", "(stepped, generator)")
    ops.check_data(x)
    times = ops.as_time(t)
    if times.shape not in ((), x.shape[:1]):
        raise ValueError(f"t: needs one time, or one time an item, shape ({len(x)},), got {tuple(times.shape)}")
    return constraint(Stepped(x, x, times.expand(len(x))), generator).x


def classifier_score(classifier: Classifying, y: Tensor | int) -> ScoreFn:
    r"""The term that guides samples to a class (paper eq. 14, appendix I.1): a classifier's gradient.

    .. math:: h(x, t) = \nabla_x \log \mathrm{softmax}\big(z(x, t)\big)_y

    ``guided(score, classifier_score(classifier, y))`` is the score of p_t(x given y) if both are exact. A weight above 1 asks for
    more of the class than Bayes' rule does, and what it then samples is not the law whose density is p(x) p(y given x)^w.

    Args:
        classifier: ``classifier(x, t)`` -> logits z, (batch, classes), of noisy data: a mixture's own, or
            :func:`sdelib.net_logits`. Put a network in eval mode: dropout would make the term random.
        y: (batch,) integers from 0, or one for all items.

    Raises:
        TypeError: if the classifier cannot be called or ``y`` does not hold integers.
        ValueError: if ``y`` is negative; when called, if a label has no logit, or shapes do not fit.
        RuntimeError: when called under ``torch.inference_mode``, which forbids derivatives.
    """
    ops.check_function(classifier, "classifier", "(x, t)")
    labels = _labels(y)
    return grad_of(lambda x, t: -_cross_entropy(classifier, x, t, labels))


def classifier_loss(
    noising: Noising,
    classifier: Classifying,
    x0: Data,
    y: Tensor,
    *,
    t: Time | None = None,
    noise: Data | None = None,
    t_min: float = 1e-5,
    generator: Generator | None = None,
) -> PerItem:
    r"""The cross-entropy of a classifier of noisy data, in nats, one time and one noise an item (paper appendix I.1).

    .. math:: &-\log \mathrm{softmax}\big(z(x(t), t)\big)_y, \\
        &x(t) = \mathrm{scale}(t)\, x_0 + \mathrm{std}(t)\, z

    Its least value is the entropy of the class given x(t): near 0 at small times, and at T that of the classes themselves. Given
    one ``t`` for all items it says how much is left of the class at that time.

    Args:
        noising: an SDE or a chain.
        classifier: ``classifier(x, t)`` -> logits (batch, classes).
        x0: clean data of any shape.
        y: (batch,) integers, the class of each item.
        t: times, (batch,); ``None`` draws them, uniform on [t_min, T] or over a chain's levels.
        noise: standard normal, x0's shape; ``None`` draws it.
        t_min: smallest time drawn.
        generator: where randomness comes from; times are drawn first, then noise.

    Raises:
        TypeError: if ``noising`` has no kernel, the classifier cannot be called, or types do not fit.
        ValueError: for a label out of range, times outside [0, T], shapes that do not match, or values that are not finite.
    """
    if not isinstance(noising, Noising):
        raise TypeError(f"noising: needs a transition kernel, which {type(noising).__name__} lacks")
    ops.check_function(classifier, "classifier", "(x, t)")
    ops.check_data(x0, "x0")
    labels = _labels(y)
    precise = torch.promote_types(x0.dtype, torch.float32)
    if t is None:
        noising.check_t_min(t_min)
        t = noising.sample_time(len(x0), t_min=t_min, generator=generator, device=x0.device, dtype=precise)
    else:
        ops.check_time(t, len(x0), low=0.0, high=noising.T)
    if noise is None:
        noise = ops.randn_like(x0, generator)
    ops.check_like(noise, x0, "noise", "x0")
    return _cross_entropy(classifier, noising.perturb(x0, t, noise), t.to(device=x0.device, dtype=precise), labels)


def _labels(y: Tensor | int) -> Tensor:
    labels = torch.as_tensor(y)
    if labels.is_floating_point() or labels.is_complex() or labels.dtype == torch.bool:
        raise TypeError(f"y: needs integers, a class for each item, got {labels.dtype}")
    if labels.ndim > 1:
        raise ValueError(f"y: needs one class an item, shape (batch,), got {tuple(labels.shape)}")
    if labels.numel() and int(labels.min()) < 0:
        raise ValueError(f"y: needs classes counted from 0, got {int(labels.min())}")
    return labels.long()


def _cross_entropy(classifier: Classifying, x: Data, t: Time, labels: Tensor) -> PerItem:
    logits = classifier(x, t)
    if logits.ndim != 2 or len(logits) != len(x):
        raise ValueError(
            f"classifier: needs logits of shape (batch, classes), got {tuple(logits.shape)} for {len(x)} items"
        )
    if labels.ndim and len(labels) != len(x):
        raise ValueError(f"y: needs one class an item, shape ({len(x)},), got {tuple(labels.shape)}")
    classes = logits.shape[1]
    if int(labels.max()) >= classes:
        raise ValueError(
            f"y: needs classes from 0 to {classes - 1}, for which there are logits, got {int(labels.max())}"
        )
    return F.cross_entropy(logits, labels.to(logits.device).expand(len(x)), reduction="none")


def _put(value: Data, where: Tensor, x: Data, basis: Tensor | None) -> Data:
    """x with ``value`` where it is known, in the basis."""
    if basis is None:
        return torch.where(where, value, x)
    return mix(basis.mT, torch.where(where, value, mix(basis, x)))


def _like(value: Tensor, x: Data, name: str) -> Tensor:
    try:
        return value.expand(x.shape)
    except RuntimeError:
        raise ValueError(
            f"{name}: needs a shape that broadcasts to x's, {tuple(x.shape)}, got {tuple(value.shape)}"
        ) from None


def _odd(mask: Tensor) -> float:
    return float(mask[(mask != 0) & (mask != 1)].flatten()[0])


def _check_known(y: Tensor, known: Tensor, basis: Tensor | None) -> None:
    try:
        shape = torch.broadcast_shapes(y.shape, known.shape)
    except RuntimeError:
        raise ValueError(
            f"mask: needs a shape that broadcasts with y's, {tuple(y.shape)}, got {tuple(known.shape)}"
        ) from None
    bad = ~torch.isfinite(y).expand(shape) & (known.expand(shape) if basis is None else True)
    if bool(bad.any()):
        raise ValueError(f"y: needs finite values where it is known, got NaN or infinity in {int(bad.sum())} places")
    if basis is None:
        return
    if not isinstance(basis, Tensor) or basis.ndim != 2 or basis.shape[0] != basis.shape[1]:
        got = tuple(basis.shape) if isinstance(basis, Tensor) else type(basis).__name__
        raise ValueError(f"basis: needs a square matrix with a basis vector in every row, got {got}")
    gap = float(
        (basis.double() @ basis.double().mT - torch.eye(len(basis), dtype=torch.float64, device=basis.device))
        .abs()
        .max()
    )
    if not gap <= math.sqrt(torch.finfo(basis.dtype).eps):
        raise ValueError(f"basis: needs orthonormal rows, got products that differ from the identity's by {gap:.2g}")
