r"""Steps made of steps: several in a row, one under a constraint, one that is done over, and the one that does nothing.

``then`` puts steps in a row, ``project`` puts a constraint behind a step, ``resample`` goes back and does a step again. With
(a, b) = noising.transition(t_next, t), the exact transition between the two times, the last one repeats n - 1 times::

    x(t_next) = step(x(t)),    x(t) = a x(t_next) + b z,

and then steps once more.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from torch import Tensor

from sdelib import ops
from sdelib.sde import Noising
from sdelib.steps.planned import PlannedStep, precise
from sdelib.types import Constraint, Data, Generator, Step, Stepped, Time

__all__ = ["identity", "project", "resample", "then"]


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
        self.nfe = sum(_nfe(step) for step in steps)
        self.moves = any(step.moves for step in steps if isinstance(step, PlannedStep))

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
        return [_Row(row, sum(_nfe(part) for part in row)) for row in zip(*columns, strict=True)]


@dataclass(frozen=True)
class _Row:
    """The parts of one interval, ready."""

    parts: tuple[Step, ...]
    nfe: int

    def __call__(self, x: Data, t: Time, t_next: Time, generator: Generator | None = None) -> Stepped:
        return _chain(self.parts, x, t, t_next, generator)


def _nfe(step: Step) -> int:
    return int(getattr(step, "nfe", 0))


def _chain(parts: Sequence[Step], x: Data, t: Time, t_next: Time, generator: Generator | None) -> Stepped:
    now = Stepped(x, x, t)
    for part in parts:
        now = _go_on(part, now, t_next, generator)
    return now


def _go_on(part: Step, now: Stepped, t_next: Time, generator: Generator | None) -> Stepped:
    if isinstance(
        part, _Constrained | _Projected
    ):  # look inside, for the constraint hides whether the step did anything
        return part.constraint(_go_on(part.step, now, t_next, generator), generator)
    after = part(now.x, now.t, t_next, generator)
    # A part that left x alone has drawn no noise: the mean is still that of the part before.
    return Stepped(now.x, now.mean, after.t) if after.x is now.x else after


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


@dataclass(frozen=True)
class _Constrained:
    """A step of any kind, or a ready one, and then the constraint."""

    step: Step
    constraint: Constraint

    @property
    def nfe(self) -> int:
        return _nfe(self.step)

    def __call__(self, x: Data, t: Time, t_next: Time, generator: Generator | None = None) -> Stepped:
        return _go_on(self, Stepped(x, x, t), t_next, generator)


class _Projected(PlannedStep):
    def __init__(self, step: PlannedStep, constraint: Constraint) -> None:
        self.step, self.constraint, self.nfe, self.moves = step, constraint, step.nfe, step.moves

    def __call__(self, x: Data, t: Time, t_next: Time, generator: Generator | None = None) -> Stepped:
        return _go_on(self, Stepped(x, x, t), t_next, generator)

    def between(self, starts: Time, ends: Time) -> Sequence[Step]:
        return [_Constrained(ready, self.constraint) for ready in self.step.between(starts, ends)]


def project(step: Step, constraint: Constraint) -> Step:
    """The step, and then the constraint, at the time at which the step ended: t_next after a predictor, t after a corrector.

    ``project(ancestral(sde, s), observe(sde, y, mask))`` is imputation by replacement (paper appendix I.2). A constraint changes
    the step's mean with its state, so that ``simulate(..., denoise=True)`` denoises what is unknown and returns y where y is
    known. It begins with a state under the constraint: ``impose(constraint, sde.prior_sample(shape), sde.T)``.

    With a corrector, put the constraint behind both parts: ``then(project(langevin(sde, s), c), project(ancestral(sde, s), c))``.
    Several corrections at one time are several steps, ``then(*[project(langevin(sde, s), c)] * 5, ...)``, each under the
    constraint, where ``n_steps=5`` would leave it for five steps. :func:`resample` does over a step under a constraint.

    Args:
        step: any step; the result is planned as it is, and costs as many evaluations.
        constraint: ``constraint(stepped, generator)``, for example :func:`sdelib.observe`.

    Raises:
        TypeError: if one of them cannot be called.
    """
    ops.check_function(step, "step", "(x, t, t_next, generator)")
    ops.check_function(constraint, "constraint", "(stepped, generator)")
    return _Projected(step, constraint) if isinstance(step, PlannedStep) else _Constrained(step, constraint)


@dataclass(frozen=True)
class _Repeated:
    """One interval, ready: n times down by the step, n - 1 times up by x -> a x + b z."""

    step: Step
    a: Tensor | float
    b: Tensor | float
    n: int

    @property
    def nfe(self) -> int:
        return self.n * _nfe(self.step)

    def __call__(self, x: Data, t: Time, t_next: Time, generator: Generator | None = None) -> Stepped:
        stepped = self.step(x, t, t_next, generator)
        for _ in range(self.n - 1):
            x = self.a * stepped.x + self.b * ops.randn_like(x, generator)
            stepped = self.step(x, t, t_next, generator)
        return stepped


class _Resampled(PlannedStep):
    def __init__(self, step: Step, noising: Noising, n: int) -> None:
        self.step, self.noising, self.n, self.nfe = step, noising, n, n * _nfe(step)

    def __call__(self, x: Data, t: Time, t_next: Time, generator: Generator | None = None) -> Stepped:
        a, b = (ops.bcast(v, x) for v in self.noising.transition(precise(t_next), precise(t)))
        return _Repeated(self.step, a, b, self.n)(x, t, t_next, generator)

    def between(self, starts: Time, ends: Time) -> Sequence[Step]:
        ready = self.step.between(starts, ends) if isinstance(self.step, PlannedStep) else [self.step] * len(starts)
        back = (v.expand(len(starts)).tolist() for v in self.noising.transition(ends, starts))
        return [_Repeated(step, a, b, self.n) for step, a, b in zip(ready, *back, strict=True)]


def resample(step: Step, noising: Noising, n: int) -> PlannedStep:
    r"""The step done over: t -> t_next, back to t by fresh noise, and again, ``n`` times down in all.

    .. math:: x(t) &= a\, x(t') + b\, z, \\
        (a, b) &= \mathrm{transition}(t', t)

    This mends much of replacement's bias (Lugmayr et al. 2022, "RePaint", with its jump length 1):
    ``resample(project(ancestral(sde, s, variance="forward"), observe(sde, y, mask)), sde, 10)``. After one step the unknown part
    was chosen without hearing what the known part has become; on the way back and down again it hears. On two numbers of
    correlation 0.8 the bias of the unknown one's mean halves with every doubling of n. It costs n times as many evaluations.

    The step's own error is repeated, too: the "posterior" noise of ancestral sampling is a little too small, and n times so at
    one time. On the same two numbers, in 50 steps with n = 10, it ends at variance 0.242, "forward" at 0.383, where
    0.360 is right.

    Args:
        step: a step that moves to t_next, under a constraint as a rule.
        noising: whose transition leads back.
        n: how often the step is done.

    Raises:
        TypeError: if ``step`` cannot be called or ``noising`` has no transitions.
        ValueError: if ``n`` is not a whole number of at least 1, or ``step`` is a corrector, which does not leave t.
    """
    ops.check_function(step, "step", "(x, t, t_next, generator)")
    if not isinstance(noising, Noising):
        raise TypeError(f"noising: needs a transition to go back by, which {type(noising).__name__} lacks")
    ops.check_count(n, "n", "times")
    if isinstance(step, PlannedStep) and not step.moves:
        raise ValueError("step: needs one that moves to t_next; a corrector is repeated by then(*[step] * n)")
    return _Resampled(step, noising, n)
