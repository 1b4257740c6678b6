r"""Predictors made from a noising: both move with the exact transition (a, b) between two times.

With (a, b) = noising.transition(t_next, t) and s the score at (x, t)::

    ancestral          mean = (x + b^2 s) / a                       noise b std(t_next)/std(t), or b ("forward", eq. 4)
    reverse diffusion  mean = (2 - a) x + (1 + eta^2)/2 b^2 s       noise eta b          (section 4.1, appendix E)

Their means differ by ((1 - a)^2 x + (1 - a) b^2 s) / a: not at all on VE and SMLD, where a = 1, and there only the noise tells
them apart.
"""

from __future__ import annotations

from torch import Tensor

from sdelib import ops
from sdelib.reversal import pull
from sdelib.sde import Noising
from sdelib.steps.planned import LinearPredictor, need_kernel
from sdelib.types import ScoreFn

__all__ = ["ancestral", "reverse_diffusion"]


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
    need_kernel(noising, score)

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
    need_kernel(noising, score)

    def coefficients(t: Tensor, t_next: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        a, b = noising.transition(t_next, t)
        return 2.0 - a, factor * b**2, eta * b

    return LinearPredictor(score, coefficients)
