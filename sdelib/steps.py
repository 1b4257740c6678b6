r"""Steps: one move of a sampler from time t to time t_next, or one repair at time t.

A step is called as ``step(x, t, t_next, generator)`` and says where it arrived, what its mean was (the move without the noise
drawn last) and at which time x now lives. *Predictors* move to t_next and solve an SDE; *correctors* stay at t and are MCMC for
that time's marginal (paper section 4.2). With (a, b) = noising.transition(t_next, t) and s the score at (x, t)::

    ancestral          mean = (x + b^2 s) / a                       noise b std(t_next)/std(t), or b ("forward", eq. 4)
    reverse diffusion  mean = (2 - a) x + (1 + eta^2)/2 b^2 s       noise eta b          (section 4.1, appendix E)
    Euler-Maruyama     mean = x + drift(x, t) dt                    noise g(t) sqrt|dt|
    Langevin           mean = x + step s                            noise sqrt(2 step)   (eq. 2)

Everything that depends on time alone can be computed beforehand for a whole grid: ``plan(times)`` returns one ready step for
every interval, and ``simulate`` uses it. Direct call and plan agree exactly. ``nfe`` is how often one call evaluates the score.
Called directly, steps do not check their times, so that they stay cheap; ``simulate`` does.
"""

from __future__ import annotations

import inspect
import math
from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor, nn

from sdelib import ops
from sdelib.reversal import MatrixDiffusion, pull
from sdelib.sde import Noising
from sdelib.types import Data, Diffusion, Drift, Generator, ScoreFn, Step, Stepped, Time


class PlannedStep(ABC):
    """A step that can be prepared for a grid. ``moves`` says whether it goes to t_next or stays at t."""

    nfe: int = 0
    moves: ClassVar[bool] = True

    @abstractmethod
    def __call__(self, x: Data, t: Time, t_next: Time, generator: Generator | None = None) -> Stepped:
        """One move."""

    @abstractmethod
    def between(self, starts: Time, ends: Time) -> Sequence[Step]:
        """A ready step for every interval from ``starts[i]`` to ``ends[i]`` (float64 times on the CPU)."""

    def plan(self, times: Time) -> Sequence[Step]:
        """A ready step for every interval of the grid ``times``."""
        return self.between(times[:-1], times[1:])


class _Identity(PlannedStep):
    def __call__(self, x: Data, t: Time, t_next: Time, generator: Generator | None = None) -> Stepped:
        return Stepped(x, x, t_next)

    def between(self, starts: Time, ends: Time) -> Sequence[Step]:
        return [self] * len(starts)


def identity() -> PlannedStep:
    """Move time and leave x alone: the predictor of a corrector-only sampler such as SMLD's."""
    return _Identity()


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
        p, q, r = self.coefficients(_precise(t), _precise(t_next))
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


def ancestral(noising: Noising, score: ScoreFn, *, variance: str = "posterior") -> LinearPredictor:
    r"""Ancestral sampling (paper eq. 4 and appendix F), for every noising.

    .. math:: x' &= \frac{x + b^2 s(x, t)}{a} + r z, \\
        (a, b) &= \mathrm{transition}(t', t), \\
        r &= b\, \mathrm{std}(t') / \mathrm{std}(t) \;\text{ or }\; b

    On SMLD's chain and VE this is appendix F's rule, on DDPM's eq. 4; sub-VP, for which the paper has none, gets one too. The
    step to time 0 has the denoised sample (Tweedie's formula) as its mean.

    Args:
        noising: an SDE or a chain.
        score: ``score(x, t)``.
        variance: "posterior" has noise b std(t_next)/std(t), the spread of x_{t_next} given x_t and x_0; "forward" has b,
            as eq. 4.

    Raises:
        ValueError: for another ``variance``.
    """
    ops.check_choice(variance, ("posterior", "forward"), "variance")
    _need_kernel(noising, score)

    def coefficients(t: Tensor, t_next: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        a, b = noising.transition(t_next, t)
        r = b if variance == "forward" else b * noising.clean_std(t_next) / noising.std(t)
        return 1.0 / a, b**2 / a, r

    return LinearPredictor(score, coefficients)


def reverse_diffusion(noising: Noising, score: ScoreFn, *, eta: float = 1.0) -> LinearPredictor:
    r"""The reverse SDE discretised as the forward chain is (paper section 4.1, appendix E).

    .. math:: x' &= (2 - a)\, x + \tfrac{1 + \eta^2}{2}\, b^2 s(x, t) + \eta\, b\, z, \\
        (a, b) &= \mathrm{transition}(t', t)

    Args:
        noising: an SDE or a chain.
        score: ``score(x, t)``.
        eta: 1 is the paper's predictor; 0 the probability flow as a predictor (no noise, half the score term); between them the
            family of :func:`sdelib.reverse`.

    Raises:
        ValueError: if ``eta`` is negative or not finite.
    """
    factor = pull(eta)
    _need_kernel(noising, score)

    def coefficients(t: Tensor, t_next: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        a, b = noising.transition(t_next, t)
        return 2.0 - a, factor * b**2, eta * b

    return LinearPredictor(score, coefficients)


class _EulerMaruyama(PlannedStep):
    def __init__(self, drift: Drift, diffusion: Diffusion | MatrixDiffusion) -> None:
        self.drift, self.diffusion = drift, diffusion
        self.nfe = int(getattr(drift, "nfe", 0))
        self.sees_x = _takes_two(diffusion)

    def __call__(self, x: Data, t: Time, t_next: Time, generator: Generator | None = None) -> Stepped:
        dt = _precise(t_next) - _precise(t)
        mean = x + ops.bcast(dt, x) * self.drift(x, t)
        return Stepped(mean + self._spread(x, t, dt.abs().sqrt(), ops.randn_like(x, generator)), mean, t_next)

    def _spread(self, x: Data, t: Time, root: Tensor, z: Data) -> Data:
        if not self.sees_x:
            return ops.bcast(ops.as_time(self.diffusion(t)).to(root) * root, x) * z  # type: ignore[call-arg]
        G, noise = self.diffusion(x, t), ops.bcast(root, x) * z  # type: ignore[call-arg]
        if x.ndim == 2 and G.shape == (*x.shape, x.shape[1]):
            return (G @ noise[..., None])[..., 0]
        if G.shape not in (x.shape, x.shape[:1]):
            raise ValueError(
                "diffusion: G(x, t) needs shape (batch, D, D) on points (batch, D), x's shape (a diagonal one) or (batch,), "
                f"got {tuple(G.shape)} on {tuple(x.shape)}"
            )
        return ops.bcast(G, x) * noise

    def between(self, starts: Time, ends: Time) -> Sequence[Step]:
        spans = (ends - starts).tolist()
        if self.sees_x:
            return [self] * len(spans)
        amplitudes = torch.as_tensor(self.diffusion(starts), dtype=torch.float64).expand(len(spans))  # type: ignore[call-arg]
        noises = (amplitudes.cpu() * (ends - starts).abs().sqrt()).tolist()
        return [_Euler(self.drift, dt, r, self.nfe) for dt, r in zip(spans, noises, strict=True)]


@dataclass(frozen=True)
class _Euler:
    drift: Drift
    dt: float
    r: float
    nfe: int

    def __call__(self, x: Data, t: Time, t_next: Time, generator: Generator | None = None) -> Stepped:
        mean = x + self.dt * self.drift(x, t)
        return Stepped(mean + self.r * ops.randn_like(x, generator), mean, t_next)


def _takes_two(diffusion: Diffusion | MatrixDiffusion) -> bool:
    """Whether the diffusion wants (x, t) rather than t alone: its number of arguments without defaults says it."""
    try:
        wanted = (
            diffusion.forward if isinstance(diffusion, nn.Module) else diffusion
        )  # a module's __call__ takes anything
        parameters = inspect.signature(wanted).parameters.values()
    except (TypeError, ValueError):
        return False
    return sum(p.default is p.empty and p.kind in (p.POSITIONAL_ONLY, p.POSITIONAL_OR_KEYWORD) for p in parameters) == 2


def euler_maruyama(drift: Drift, diffusion: Diffusion | MatrixDiffusion) -> PlannedStep:
    r"""The simplest step of an SDE, with dt = t_next - t of either sign: strong order 1/2, weak order 1.

    .. math:: x' = x + f(x, t)\, dt + g(t) \sqrt{|dt|}\; z

    Where the noise amplitude does not depend on x, the strong order is 1 (Kloeden & Platen 1992, section 10.2).
    f is ``drift``, g is ``diffusion``.
    Forward in time with ``sde.drift, sde.diffusion``; backward with the pair that :func:`sdelib.reverse` returns.

    Args:
        drift: ``drift(x, t)``.
        diffusion: ``diffusion(t)``, one number a time; or ``G(x, t)``, either (batch, D, D) as in appendix A or x's shape
            for a diagonal one.

    Raises:
        TypeError: if one of them cannot be called.
    """
    for name, fn in (("drift", drift), ("diffusion", diffusion)):
        ops.check_function(fn, name)
    linear = getattr(drift, "linear", None)  # what reverse says of an SDE's drift: f(t) x + q(t) score
    if linear is None or _takes_two(diffusion):
        return _EulerMaruyama(drift, diffusion)

    score, rates = linear

    def coefficients(t: Tensor, t_next: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        dt = t_next - t
        f, q = rates(t)
        g = ops.as_time(diffusion(t)).to(dt)  # type: ignore[call-arg]
        return 1.0 + f * dt, q * dt, g * dt.abs().sqrt()

    return LinearPredictor(score, coefficients, backward_only=False)


class _Corrector(PlannedStep):
    """Langevin at time t: n_steps of x + step s + sqrt(2 step) z, where ``size`` decides the step."""

    moves = False

    def __init__(self, noising: Noising, score: ScoreFn, snr: float, n_steps: int) -> None:
        ops.check_positive(snr, "snr")
        ops.check_count(n_steps, "n_steps", "steps at every time")
        _need_kernel(noising, score)
        self.noising, self.score, self.snr, self.n_steps, self.nfe = noising, score, snr, n_steps, n_steps

    @abstractmethod
    def size(self, alpha: Tensor | float, std: Tensor | float, s: Data, z: Data) -> Tensor | float:
        """The step size, (batch,) or one number; ``alpha`` and ``std`` are plain numbers in a ready step."""

    def alphas(self, t: Tensor, t_next: Tensor) -> Tensor:
        """(scale(t)/scale(t_next))^2: 1 for VE and SMLD, exactly 1 - beta_i between DDPM's neighbouring levels."""
        return torch.minimum(self.noising.transition(t_next, t)[0], torch.ones_like(t)) ** 2

    def __call__(self, x: Data, t: Time, t_next: Time, generator: Generator | None = None) -> Stepped:
        early, late = _precise(t), _precise(t_next)
        alpha, std, noisy = self.alphas(early, late), self.noising.std(early), early > 0
        if bool(noisy.all()):
            return self.run(x, t, alpha, std, generator)
        if not bool(noisy.any()):
            return Stepped(x, x, t)  # at time 0 data are clean: nothing to correct
        where = noisy.to(x.device)
        part = self.run(x[where], t[where.to(t.device)], alpha[noisy], std[noisy], generator)
        out, mean = x.clone(), x.clone()
        out[where], mean[where] = part.x, part.mean
        return Stepped(out, mean, t)

    def run(self, x: Data, t: Time, alpha: Tensor | float, std: Tensor | float, generator: Generator | None) -> Stepped:
        mean = x
        for _ in range(self.n_steps):
            s, z = self.score(x, t), ops.randn_like(x, generator)
            step = self.size(alpha, std, s, z)
            if isinstance(step, Tensor):
                step, root = ops.bcast(step, x), ops.bcast(torch.sqrt(2.0 * step), x)
                mean = x + step * s
                x = mean + root * z
            else:
                mean = x + step * s
                x = mean + math.sqrt(2.0 * step) * z
        return Stepped(x, mean, t)

    def between(self, starts: Time, ends: Time) -> Sequence[Step]:
        alphas, stds = self.alphas(starts, ends), self.noising.std(starts)
        return [
            _Ready(self, alpha, std) if start > 0 else _Unchanged()
            for start, alpha, std in zip(starts.tolist(), alphas.tolist(), stds.tolist(), strict=True)
        ]


@dataclass(frozen=True)
class _Ready:
    """A corrector at one known time."""

    corrector: _Corrector
    alpha: float
    std: float

    @property
    def nfe(self) -> int:
        return self.corrector.nfe

    def __call__(self, x: Data, t: Time, t_next: Time, generator: Generator | None = None) -> Stepped:
        return self.corrector.run(x, t, self.alpha, self.std, generator)


class _Unchanged:
    """A corrector at time 0."""

    nfe = 0

    def __call__(self, x: Data, t: Time, t_next: Time, generator: Generator | None = None) -> Stepped:
        return Stepped(x, x, t)


class _Langevin(_Corrector):
    def __init__(self, noising: Noising, score: ScoreFn, snr: float, n_steps: int, norm: str) -> None:
        super().__init__(noising, score, snr, n_steps)
        ops.check_choice(norm, ("batch", "sample"), "norm")
        self.norm = norm

    def size(self, alpha: Tensor | float, std: Tensor | float, s: Data, z: Data) -> Tensor | float:
        z_norm, s_norm = (torch.linalg.vector_norm(v.reshape(len(v), -1), dim=1) for v in (z, s))
        if self.norm == "batch":
            z_norm, s_norm = z_norm.mean(), s_norm.mean()
        doubled = 2.0 * alpha
        return (doubled.to(s) if isinstance(doubled, Tensor) else doubled) * (self.snr * (z_norm / s_norm)) ** 2


def langevin(
    noising: Noising, score: ScoreFn, *, snr: float = 0.16, n_steps: int = 1, norm: str = "batch"
) -> PlannedStep:
    r"""The paper's Langevin corrector (algorithms 4 and 5), with |z| and |s| as means of the items' norms.

    .. math:: x' &= x + \epsilon\, s(x, t) + \sqrt{2 \epsilon}\, z, \\
        \epsilon &= 2 \alpha \Big( r\, \frac{\|z\|}{\|s\|} \Big)^2

    alpha = (scale(t)/scale(t_next))^2 is 1 for VE and 1 - beta_i on DDPM's chain.

    Args:
        noising: an SDE or a chain.
        score: ``score(x, t)``.
        snr: r, the ratio of the drift's length to the noise's.
        n_steps: M, corrector steps at every time.
        norm: "batch" takes the means of the items' norms over the batch, as the authors do: a sample then depends on its
            neighbours. "sample" takes each item's own norms, which has no stationary law near a mode, where |s| vanishes and
            the step explodes: an exhibit, not a tool. :func:`annealed_langevin` couples no neighbours.

    Raises:
        ValueError: if ``snr`` or ``n_steps`` is not above 0, or for another ``norm``.
    """
    return _Langevin(noising, score, snr, n_steps, norm)


class _Annealed(_Corrector):
    def size(self, alpha: Tensor | float, std: Tensor | float, s: Data, z: Data) -> Tensor | float:
        length = self.snr * std
        return 2.0 * alpha * (length * length)  # a product, so that tensors and plain numbers round alike


def annealed_langevin(noising: Noising, score: ScoreFn, *, snr: float = 0.16, n_steps: int = 1) -> PlannedStep:
    r"""SMLD's corrector (paper eq. 2; Song & Ermon 2019), with one step size for every item.

    .. math:: x' &= x + \epsilon\, s(x, t) + \sqrt{2 \epsilon}\, z, \\
        \epsilon &= 2 \alpha \big( r\, \mathrm{std}(t) \big)^2

    With the score of N(0, std^2 I) it keeps the variance to within a factor 1/(1 - step/(2 std^2)) = 1/(1 - alpha snr^2).
    Arguments and errors as for :func:`langevin`.
    """
    return _Annealed(noising, score, snr, n_steps)


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

    Raises:
        TypeError: if one of them cannot be called.
        ValueError: if no step is given.
    """
    if not steps:
        raise ValueError("steps: needs at least one step")
    for step in steps:
        ops.check_function(step, "steps", "(x, t, t_next, generator)")
    # A chain of chains is one chain; so every part's own account of whether it moves time is seen when planning.
    return _Then([part for step in steps for part in (step.steps if isinstance(step, _Then) else (step,))])


def _precise(t: Time) -> Time:
    """Times in float64 on the CPU, where coefficients are computed (moved first: Apple GPUs have no float64)."""
    return t.cpu().double()


def _need_kernel(noising: Noising, score: ScoreFn) -> None:
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
