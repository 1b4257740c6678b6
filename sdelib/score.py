r"""Scores: what a sampler knows about the data.

A score is any function ``score(x, t)`` close to grad_x log p_t(x): a mixture's exact one, a network behind its scalings
(:class:`NetScore`), the gradient of a log-density (:func:`grad_of`), or a sum of such terms (:func:`guided`).

Four ways to say the same thing. With x = scale x0 + std noise, knowing one of these tells the others::

    noise = -std score                          (Ho et al. 2020 train on it)
    x0    = (x - std noise) / scale             (Tweedie's formula: the mean of x(0) given x, Efron 2011)
    v     = scale noise - std x0                (Salimans & Ho 2022)
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from jaxtyping import Float
from torch import Tensor, nn

from sdelib import ops
from sdelib.sde import Noising
from sdelib.types import Data, PerItem, ScoreFn, Time

PREDICTIONS = ("score", "noise", "x0", "v")


class NetScore(nn.Module):
    r"""A network behind its scalings, as a score.

    .. math:: s(x, t) &= \mathrm{skip}(t)\, x \\
        &+ \mathrm{out}(t)\; \mathrm{net}\big(\mathrm{inp}(x, t), \mathrm{label}(t)\big)

    The scalings live here and never inside a network, so one network serves every noising. They are computed in x's dtype
    but at least float32, outside autocast; the network runs in whatever precision the caller set.

    Args:
        net: ``net(x, label)``, x's shape in and out.
        label: t -> what the network embeds.
        out: t -> factor of the network's output.
        inp: (x, t) -> the network's input; ``None``: x itself.
        skip: t -> factor of x; ``None``: no skip.

    Raises:
        TypeError: if one of them cannot be called.
    """

    def __init__(
        self,
        net: Callable[[Data, Time], Data],
        *,
        label: Callable[[Time], Time],
        out: Callable[[Time], Time],
        inp: Callable[[Data, Time], Data] | None = None,
        skip: Callable[[Time], Time] | None = None,
    ) -> None:
        super().__init__()
        for name, fn in (("net", net), ("label", label), ("out", out), ("inp", inp), ("skip", skip)):
            if fn is not None:
                ops.check_function(fn, name)
        if label is None or out is None:
            raise TypeError("label, out: both are needed; net_score(net, noising) supplies the authors' choices")
        self.net, self.label, self.out, self.inp, self.skip = net, label, out, inp, skip

    def forward(self, x: Data, t: Time) -> Data:
        """The score at x and t."""
        time, label, inp = _prepared(x, t, self.label, self.inp)
        raw = self.net(inp, label)
        with torch.autocast(x.device.type, enabled=False):
            raw = raw.to(label.dtype)
            score = ops.bcast(self.out(time), raw) * raw
            if self.skip is not None:
                score = score + ops.bcast(self.skip(time), raw) * x.to(label.dtype)
        return score.to(x.dtype)


def _prepared(
    x: Data, t: Time, label: Callable[[Time], Time], inp: Callable[[Data, Time], Data] | None
) -> tuple[Time, Time, Data]:
    """Time, label and input of a network, in x's dtype but at least float32, outside autocast."""
    precise = torch.promote_types(x.dtype, torch.float32)
    with torch.autocast(x.device.type, enabled=False):
        time = t.to(device=x.device, dtype=torch.promote_types(t.dtype, precise))
        return time, label(time).to(precise), x if inp is None else inp(x, time)


def net_score(
    net: Callable[[Data, Time], Data],
    noising: Noising,
    *,
    label: Callable[[Time], Time] | None = None,
    out: Callable[[Time], Time] | None = None,
    inp: Callable[[Data, Time], Data] | None = None,
) -> NetScore:
    """A network as the score of a noising, with the authors' label and output scaling unless others are given.

    ============  =====================  ==========
    noising       label(t)               out(t)
    ============  =====================  ==========
    VE            log sigma(t)           1/sigma(t)
    VP, sub-VP    999 t/T                -1/std(t)
    SMLD chain    N - level              1/sigma_i
    DDPM chain    level - 1              -1/std_i
    ============  =====================  ==========

    With the minus sign the network predicts the noise, as DDPM's does. ``inp(x, t)`` is the network's input, x itself by default.

    Raises:
        TypeError: if ``noising`` has no kernel (:class:`~sdelib.Ito`) and ``label`` or ``out`` is missing.
    """
    if not isinstance(noising, Noising) and (label is None or out is None):
        raise TypeError(
            f"noising: {type(noising).__name__} has no transition kernel to take a scaling from; give label= and out="
        )
    return NetScore(net, label=label or noising.net_label, out=out or noising.net_out, inp=inp)


class NetLogits(nn.Module):
    r"""A classifying network behind its scalings: ``classifier(x, t)``, logits of noisy data (paper section 5, appendix I.1).

    .. math:: \log p_t(y \mid x) = z_y - \log \sum_k e^{z_k}

    with the logits z = net(inp(x, t), label(t)). As in :class:`NetScore` the scalings live here, in x's dtype but at least
    float32, outside autocast; the logits come in that precision.

    Args:
        net: ``net(x, label)`` -> (batch, classes).
        label: t -> what the network embeds.
        inp: (x, t) -> the network's input; ``None``: x itself.

    Raises:
        TypeError: if one of them cannot be called.
    """

    def __init__(
        self,
        net: Callable[[Data, Time], Float[Tensor, "batch classes"]],
        *,
        label: Callable[[Time], Time],
        inp: Callable[[Data, Time], Data] | None = None,
    ) -> None:
        super().__init__()
        for name, fn in (("net", net), ("label", label), ("inp", inp)):
            if fn is not None or name == "label":
                ops.check_function(fn, name)
        self.net, self.label, self.inp = net, label, inp

    def forward(self, x: Data, t: Time) -> Float[Tensor, "batch classes"]:
        """The logits at x and t."""
        _, label, inp = _prepared(x, t, self.label, self.inp)
        return self.net(inp, label).to(label.dtype)


def net_logits(
    net: Callable[[Data, Time], Float[Tensor, "batch classes"]],
    noising: Noising,
    *,
    label: Callable[[Time], Time] | None = None,
    inp: Callable[[Data, Time], Data] | None = None,
) -> NetLogits:
    r"""A network as the classifier of a noising's data, with the label of :func:`net_score` unless another is given.

    .. math:: \mathrm{inp}(x, t) = x / \sqrt{\mathrm{scale}^2 + \mathrm{std}^2}

    unless another is given: of size 1 at every time if the data are. At VE's end x is 50 times larger, and the sums of a residual
    network would drown in it. (The authors' classifier gives each image the mean 0 and the variance 1 instead.)

    Args:
        net: ``net(x, label)`` -> (batch, classes), for example a :class:`~sdelib.models.Classifier`.
        noising: whose noise the images carry.
        label: t -> what the network embeds.
        inp: (x, t) -> the network's input.

    Raises:
        TypeError: if ``noising`` has no kernel (:class:`~sdelib.Ito`) and ``label`` or ``inp`` is missing.
    """
    if not isinstance(noising, Noising) and (label is None or inp is None):
        raise TypeError(
            f"noising: {type(noising).__name__} has no transition kernel to take a scaling from; give label= and inp="
        )

    def of_size_one(x: Data, t: Time) -> Data:
        return x / ops.bcast(torch.sqrt(noising.scale(t) ** 2 + noising.std(t) ** 2), x)

    return NetLogits(net, label=label or noising.net_label, inp=inp or of_size_one)


def grad_of(log_prob: Callable[[Data, Time], PerItem]) -> ScoreFn:
    """The score grad_x log_prob(x, t) of a log-density, by automatic differentiation; the normaliser drops out.

    >>> score = grad_of(lambda x, t: -0.5 * (x**2).sum(1))
    >>> score(torch.tensor([[1.0, -2.0]]), torch.zeros(1)).detach()
    tensor([[-1.,  2.]])

    Raises:
        ValueError: when called, if ``log_prob`` does not return one number an item.
        RuntimeError: when called under ``torch.inference_mode``, which forbids derivatives.
    """

    def score(x: Data, t: Time) -> Data:
        if torch.is_inference_mode_enabled():
            raise RuntimeError("grad_of needs derivatives, which torch.inference_mode() forbids; use torch.no_grad()")
        keep = torch.is_grad_enabled()
        with torch.enable_grad():
            leaf = x if x.requires_grad else x.detach().requires_grad_()
            value = log_prob(leaf, t)
            if value.shape != x.shape[:1]:
                raise ValueError(f"log_prob: needs one number an item, shape ({x.shape[0]},), got {tuple(value.shape)}")
            (gradient,) = torch.autograd.grad(value.sum(), leaf, create_graph=keep)
        return gradient

    return score


def guided(score: ScoreFn, *terms: ScoreFn, weight: float = 1.0) -> ScoreFn:
    r"""A score with further terms, for example a classifier's gradient (paper eq. 14).

    .. math:: s(x, t) + w \sum_i h_i(x, t)

    With the one term h = grad_x log p_t(y given x) and w = 1 this is the score of p_t(x given y).

    Args:
        score: ``score(x, t)``.
        terms: functions of (x, t), shaped as x.
        weight: w.

    Raises:
        TypeError: if the score or a term cannot be called.
        ValueError: when called, if a term does not have x's shape.
    """
    for fn in (score, *terms):
        if not callable(fn):
            raise TypeError(f"score, terms: need functions of (x, t), got {type(fn).__name__}")

    def total(x: Data, t: Time) -> Data:
        result = score(x, t)
        for i, term in enumerate(terms):
            push = term(x, t)
            ops.check_like(push, x, f"terms[{i}]")
            result = result + weight * push
        return result

    return total


def denoised(noising: Noising, score: ScoreFn, x: Data, t: Time) -> Data:
    r"""Tweedie's formula: the mean of x(0) given x(t) = x (Efron 2011).

    .. math:: \mathbb{E}[x_0 \mid x_t = x] = \frac{x + \mathrm{std}(t)^2\, s(x, t)}{\mathrm{scale}(t)}
    """
    return convert(noising, score(x, t), x, t, source="score", target="x0")


def convert(noising: Noising, value: Data, x: Data, t: Time, *, source: str, target: str) -> Data:
    r"""Turn one prediction into another: ``source`` and ``target`` are "score", "noise", "x0" or "v".

    .. math:: z &= -\mathrm{std}\; s, \\
        x_0 &= (x - \mathrm{std}\; z) / \mathrm{scale}, \\
        v &= \mathrm{scale}\; z - \mathrm{std}\; x_0

    Raises:
        TypeError: if ``noising`` has no kernel.
        ValueError: for another name, or a ``value`` that does not have x's shape. At std(t) = 0 noise and score say nothing
            about each other, and the result is not finite.
    """
    if not isinstance(noising, Noising):
        raise TypeError(f"noising: needs scale and std, which {type(noising).__name__} lacks")
    ops.check_choice(source, PREDICTIONS, "source")
    ops.check_choice(target, PREDICTIONS, "target")
    ops.check_like(value, x, "value")
    if source == target:
        return value
    scale, std = ops.bcast(noising.scale(t), x), ops.bcast(noising.std(t), x)
    # Score and x0 reach each other without passing through the noise, which is 0/0 where std is 0.
    if (source, target) == ("score", "x0"):
        return (x + std**2 * value) / scale
    if (source, target) == ("x0", "score"):
        return (scale * value - x) / std**2
    # v reaches x0 without dividing by scale, which costs a DDPM's last level 157 roundings on the way through the noise.
    if (source, target) == ("v", "x0"):
        return (scale * x - std * value) / (scale**2 + std**2)
    noise = _as_noise(value, x, scale, std, source)
    if target == "noise":
        return noise
    if target == "score":
        return -noise / std
    x0 = (x - std * noise) / scale
    return x0 if target == "x0" else scale * noise - std * x0


def _as_noise(value: Data, x: Data, scale: Tensor, std: Tensor, source: str) -> Data:
    if source == "noise":
        return value
    if source == "score":
        return -std * value
    if source == "x0":
        return (x - scale * value) / std
    return (std * x + scale * value) / (scale**2 + std**2)  # from v; the denominator is 1 for VP alone


def as_score(predict: Callable[[Data, Time], Data], noising: Noising, *, prediction: str) -> ScoreFn:
    """A function ``predict(x, t)`` of the noise, x0 or v, as a score.

    Raises:
        ValueError: if ``prediction`` is not one of "score", "noise", "x0", "v".
    """
    ops.check_choice(prediction, PREDICTIONS, "prediction")
    return lambda x, t: convert(noising, predict(x, t), x, t, source=prediction, target="score")
