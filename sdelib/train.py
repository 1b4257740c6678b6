"""The training loop: a generator of metrics, so that whoever calls it decides what to do between two of them.

A run reads::

    state = new_state(net_score(MLP(2, generator=g), vp), cfg, generator=g)
    loss = lambda score, x0, generator: dsm(vp, score, x0, generator=generator)
    for m in train(state, loss, batches(gm2(), 256, generator=g), cfg):
        print(m.step, m.loss)

One step is: a batch, the mean of the loss's items, its gradient, clipped to a norm of 1, Adam under a linearly rising
learning rate, and the average of the weights. Defaults are the authors' (paper, appendix H; their code's configs).
``state`` holds everything that a step changes, and nothing else does: a stopped loop goes on where it was.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, replace
from typing import Any, NamedTuple

import torch
from torch import nn

from sdelib import ops
from sdelib.ema import EMA
from sdelib.types import PerItem

Loss = Callable[[nn.Module, Any, torch.Generator | None], PerItem]
"""``loss(net, batch, generator)``: one number an item."""


class TrainingDiverged(ArithmeticError):
    """The loss or its gradient is NaN or infinite. ``step`` is the step that was not made; the state is as before it."""

    def __init__(self, step: int, what: str, value: float) -> None:
        super().__init__(
            f"step {step}: {what} is {value}; the state is as it was before this step. "
            "A smaller lr, a longer warmup or a larger t_min is the usual cure"
        )
        self.step = step


@dataclass(frozen=True)
class TrainConfig:
    """What a run is made of; presets are ``dataclasses.replace`` of another.

    ==============  ========  =====================================================================
    field           default   meaning
    ==============  ========  =====================================================================
    steps           1300000   total steps, counted from step 0 of the state (the authors' CIFAR-10)
    lr              2e-4      Adam's learning rate after the warm-up
    warmup          5000      steps over which it rises linearly; step k of them uses lr (k+1)/warmup
    betas           .9, .999  Adam's two decay rates
    adam_eps        1e-8      Adam's epsilon
    grad_clip       1.0       largest norm of the whole gradient; None: no clipping
    ema_decay       0.999     of the averaged weights (the authors take 0.9999 for VP)
    log_every       50        steps between two metrics
    ==============  ========  =====================================================================

    Raises:
        ValueError: for a number outside its range; the message names it.
    """

    steps: int = 1_300_000
    lr: float = 2e-4
    warmup: int = 5000
    betas: tuple[float, float] = (0.9, 0.999)
    adam_eps: float = 1e-8
    grad_clip: float | None = 1.0
    ema_decay: float = 0.999
    log_every: int = 50

    def __post_init__(self) -> None:
        """Check the numbers."""
        for name, low in (("steps", 0), ("warmup", 0), ("log_every", 1)):
            value = getattr(self, name)
            if isinstance(value, bool) or not isinstance(value, int) or value < low:
                raise ValueError(f"{name}: needs a whole number, at least {low}, got {value!r}")
        ops.check_positive(self.lr, "lr")
        ops.check_positive(self.adam_eps, "adam_eps")
        if self.grad_clip is not None:
            ops.check_positive(self.grad_clip, "grad_clip")
        for name, value in (("betas", max(self.betas)), ("betas", min(self.betas)), ("ema_decay", self.ema_decay)):
            if not 0.0 <= value < 1.0:
                raise ValueError(f"{name}: needs numbers in [0, 1), got {getattr(self, name)!r}")

    def lr_at(self, step: int) -> float:
        """The learning rate of a step, counted from 0."""
        return self.lr * min(1.0, (step + 1) / self.warmup) if self.warmup else self.lr


PAPER = TrainConfig()
"""The authors' numbers for CIFAR-10."""
POINTS = replace(PAPER, steps=2000, lr=2e-3, warmup=100, ema_decay=0.99, log_every=20)
"""For an MLP on points: seconds on a CPU."""


class Metrics(NamedTuple):
    """What happened since the metrics before: after ``step`` steps in all."""

    step: int
    """steps made so far"""
    loss: float
    """mean over the steps since the last metrics"""
    grad_norm: float
    """norm of the last gradient, before clipping"""
    lr: float
    """learning rate of the last step"""


@dataclass
class State:
    """All that a step changes: weights, Adam's moments, the average, the count, the randomness of the loss."""

    net: nn.Module
    optimiser: torch.optim.Optimizer
    ema: EMA
    step: int = 0
    generator: torch.Generator | None = None


def new_state(net: nn.Module, cfg: TrainConfig, *, generator: torch.Generator | None = None) -> State:
    """A state before step 0.

    Args:
        net: what ``loss`` takes, usually a ``NetScore`` with the network inside.
        cfg: the run's numbers.
        generator: handed to the loss at every step.

    Raises:
        ValueError: if ``net`` has nothing to train.
    """
    trained = [p for p in net.parameters() if p.requires_grad]
    if not trained:
        raise ValueError(f"net: needs parameters to train, {type(net).__name__} has none")
    adam = torch.optim.Adam(trained, lr=cfg.lr, betas=cfg.betas, eps=cfg.adam_eps)
    return State(net, adam, EMA(net, decay=cfg.ema_decay), 0, generator)


def train(state: State, loss: Loss, loader: Iterable[Any], cfg: TrainConfig) -> Iterator[Metrics]:
    """Train until ``state.step`` is ``cfg.steps``, yielding metrics every ``cfg.log_every`` steps and at the end.

    Nothing happens until the iterator is asked, and between two metrics nothing goes on: look at ``state.net`` or sample
    with ``state.ema.swapped(state.net)`` in the loop's body; leave the loop whenever you like and call ``train`` again to go
    on. Same state and same batches, same bits (on one machine with one number of threads).

    Args:
        state: is changed in place.
        loss: ``loss(net, batch, generator) -> (batch,)``; the step uses the mean.
        loader: batches; enough for the steps that are to be made.
        cfg: the run's numbers.

    Raises:
        TrainingDiverged: if the loss or its gradient is not finite. The state is as it was before that step, its generator
            included; only the batch is gone.
        ValueError: if the loader ends too early, or the loss does not return one number an item.
    """
    batches = iter(loader)
    total, count = 0.0, 0
    while state.step < cfg.steps:
        try:
            batch = next(batches)
        except StopIteration:
            raise ValueError(f"loader: ended after step {state.step}, needs batches for {cfg.steps} steps") from None
        lr = cfg.lr_at(state.step)
        value, grad_norm = _step(state, loss, batch, lr, cfg.grad_clip)
        total, count = total + value, count + 1
        if state.step % cfg.log_every == 0 or state.step == cfg.steps:
            yield Metrics(state.step, total / count, grad_norm, lr)
            total, count = 0.0, 0


def _step(state: State, loss: Loss, batch: Any, lr: float, grad_clip: float | None) -> tuple[float, float]:
    """One step; nothing of the state is touched before loss and gradient are known to be finite."""
    before = None if state.generator is None else state.generator.get_state()

    def give_up(what: str, value: float) -> TrainingDiverged:
        state.optimiser.zero_grad(set_to_none=True)
        if state.generator is not None and before is not None:
            state.generator.set_state(before)
        return TrainingDiverged(state.step, what, value)

    state.net.train()
    state.optimiser.zero_grad(set_to_none=True)
    per_item = loss(state.net, batch, state.generator)
    if per_item.ndim != 1:
        raise ValueError(f"loss: needs one number an item, shape (batch,), got {tuple(per_item.shape)}")
    mean = per_item.mean()
    value = float(mean.detach())
    if not math.isfinite(value):
        raise give_up("the loss", value)
    mean.backward()
    trained = [p for group in state.optimiser.param_groups for p in group["params"]]
    norm = torch.nn.utils.get_total_norm([p.grad for p in trained if p.grad is not None])
    grad_norm = float(norm)
    if not math.isfinite(grad_norm):
        raise give_up("the gradient's norm", grad_norm)
    if grad_clip is not None:
        torch.nn.utils.clip_grads_with_norm_(trained, grad_clip, norm)
    for group in state.optimiser.param_groups:
        group["lr"] = lr
    state.optimiser.step()
    state.ema.update(state.net)
    state.step += 1
    return value, grad_norm
