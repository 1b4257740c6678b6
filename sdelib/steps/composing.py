"""The step that does nothing, and the one that is several others in a row."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from sdelib import ops
from sdelib.steps.planned import PlannedStep
from sdelib.types import Data, Generator, Step, Stepped, Time

__all__ = ["identity", "then"]


class _Identity(PlannedStep):
    def __call__(self, x: Data, t: Time, t_next: Time, generator: Generator | None = None) -> Stepped:
        return Stepped(x, x, t_next)

    def between(self, starts: Time, ends: Time) -> Sequence[Step]:
        return [self] * len(starts)


def identity() -> PlannedStep:
    """Move time and leave x alone: the predictor of a corrector-only sampler such as SMLD's, or no corrector at all."""
    return _Identity()


class _Then(PlannedStep):
    def __init__(self, steps: Sequence[Step]) -> None:
        self.steps = steps
        self.nfe = sum(int(getattr(step, "nfe", 0)) for step in steps)

    def __call__(self, x: Data, t: Time, t_next: Time, generator: Generator | None = None) -> Stepped:
        return _chain(self.steps, x, t, t_next, generator)

    def between(self, starts: Time, ends: Time) -> Sequence[Step]:
        columns: list[Sequence[Step]] = []
        for step in self.steps:
            # Only our own steps tell beforehand whether they move time; others are asked at run time, and end planning.
            if not isinstance(step, PlannedStep):
                return [self] * len(starts)
            columns.append(step.between(starts, ends))
            starts = ends if step.moves else starts
        return [_Row(row, sum(int(getattr(part, "nfe", 0)) for part in row)) for row in zip(*columns, strict=True)]


@dataclass(frozen=True)
class _Row:
    """The parts of one interval, ready."""

    parts: tuple[Step, ...]
    nfe: int

    def __call__(self, x: Data, t: Time, t_next: Time, generator: Generator | None = None) -> Stepped:
        return _chain(self.parts, x, t, t_next, generator)


def _chain(parts: Sequence[Step], x: Data, t: Time, t_next: Time, generator: Generator | None) -> Stepped:
    now = Stepped(x, x, t)
    for part in parts:
        after = part(now.x, now.t, t_next, generator)
        # A part that left x alone has drawn no noise: the mean is still that of the part before.
        now = Stepped(now.x, now.mean, after.t) if after.x is now.x else after
    return now


def then(*steps: Step) -> PlannedStep:
    """The steps one after another, each starting where, and at the time, the one before ended.

    ``then(langevin(sde, s), reverse_diffusion(sde, s))`` is the authors' predictor-corrector sampler: correct at t, then predict
    t -> t_next. SMLD's sampler is ``then(annealed_langevin(chain, s, n_steps=M), identity())``.

    Only one of them predicts. :func:`identity` does so where no other does; before a predictor it stands for no corrector, and
    DDPM's sampler may be written ``then(identity(), ancestral(chain, s))`` as well as ``ancestral(chain, s)``.

    Raises:
        TypeError: if one of them cannot be called.
        ValueError: if no step is given, or two that move to t_next: the second would find its work done.
    """
    if not steps:
        raise ValueError("steps: needs at least one step")
    for step in steps:
        ops.check_function(step, "steps", "(x, t, t_next, generator)")
    # A chain of chains is one chain; so every part's own account of whether it moves time is seen when planning.
    parts = [part for step in steps for part in (step.steps if isinstance(step, _Then) else (step,))]
    movers = [i for i, p in enumerate(parts) if isinstance(p, PlannedStep) and p.moves and not isinstance(p, _Identity)]
    if len(movers) > 1:
        raise ValueError(f"steps: need one predictor at most, got {len(movers)} that move from t to t_next")
    return _Then([p for i, p in enumerate(parts) if not (isinstance(p, _Identity) and movers and i < movers[0])])
