"""What steps share: a plan for a whole grid, and the form that most predictors have.

A step that knows its grid beforehand computes in one vectorised call, in float64 on the CPU, what depends on time alone; what is
left for the loop is a few multiplications by plain numbers. Called directly, a step computes the same numbers for each item's own
times. Both ways give the same bits.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from torch import Tensor

from sdelib import ops
from sdelib.sde import Noising
from sdelib.types import Data, Generator, ScoreFn, Step, Stepped, Time

__all__ = ["LinearPredictor", "PlannedStep"]  # the other two are for the modules beside this one


class PlannedStep(ABC):
    """A step that can be prepared for a grid. ``moves`` says whether it goes to t_next or stays at t."""

    nfe: int = 0
    moves: bool = True

    @abstractmethod
    def __call__(self, x: Data, t: Time, t_next: Time, generator: Generator | None = None) -> Stepped:
        """One move."""

    @abstractmethod
    def between(self, starts: Time, ends: Time) -> Sequence[Step]:
        """A ready step for every interval from ``starts[i]`` to ``ends[i]`` (float64 times on the CPU)."""

    def plan(self, times: Time) -> Sequence[Step]:
        """A ready step for every interval of the grid ``times``."""
        return self.between(times[:-1], times[1:])


@dataclass(frozen=True)
class _Linear:
    """mean = p x + q score, x = mean + r noise, with numbers p, q, r."""

    score: ScoreFn
    p: float
    q: float
    r: float
    nfe: int = 1

    def __call__(self, x: Data, t: Time, t_next: Time, generator: Generator | None = None) -> Stepped:
        mean = (x if self.p == 1.0 else self.p * x) + self.q * self.score(x, t)
        return Stepped(mean if self.r == 0.0 else mean + self.r * ops.randn_like(x, generator), mean, t_next)


class LinearPredictor(PlannedStep):
    """A predictor with mean p x + q score and noise r z, where p, q, r = coefficients(t, t_next) know times alone.

    With ``backward_only`` it refuses a grid that runs forward in time.
    """

    nfe = 1

    def __init__(
        self,
        score: ScoreFn,
        coefficients: Callable[[Tensor, Tensor], tuple[Tensor, Tensor, Tensor]],
        *,
        backward_only: bool = True,
    ) -> None:
        self.score, self.coefficients, self.backward_only = score, coefficients, backward_only

    def __call__(self, x: Data, t: Time, t_next: Time, generator: Generator | None = None) -> Stepped:
        """One move, every item at its own time."""
        p, q, r = self.coefficients(precise(t), precise(t_next))
        mean = ops.bcast(p, x) * x + ops.bcast(q, x) * self.score(x, t)
        if not bool(r.any()):  # as a ready step does, draw nothing where nothing is added
            return Stepped(mean, mean, t_next)
        return Stepped(mean + ops.bcast(r, x) * ops.randn_like(x, generator), mean, t_next)

    def between(self, starts: Time, ends: Time) -> Sequence[Step]:
        """p, q and r for every interval in one vectorised call.

        Raises:
            ValueError: if the grid runs forward in time and the predictor cannot.
        """
        if self.backward_only and bool((ends > starts).any()):
            raise ValueError(
                "times: this predictor runs backward in time, from t to a smaller t_next; got rising times"
            )
        table = zip(*(c.expand(len(starts)).tolist() for c in self.coefficients(starts, ends)), strict=True)
        return [_Linear(self.score, p, q, r) for p, q, r in table]


def precise(t: Time) -> Time:
    """Times in float64 on the CPU, where coefficients are computed (moved first: Apple GPUs have no float64)."""
    return t.cpu().double()


def need_kernel(noising: Noising, score: ScoreFn) -> None:
    """Refuse a noising without transitions and a score that cannot be called (TypeError)."""
    if isinstance(noising, type):
        raise TypeError(
            f"noising: needs an SDE or a chain, got the class {noising.__name__}; write {noising.__name__}()"
        )
    if not isinstance(noising, Noising):
        raise TypeError(
            f"noising: needs scale, std and transition, which {type(noising).__name__} lacks; "
            "for a general SDE use euler_maruyama(*reverse(sde, score))"
        )
    ops.check_function(score, "score", "(x, t)")
