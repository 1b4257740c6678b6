r"""Steps: one move of a sampler from time t to time t_next, or one repair at time t.

A step is called as ``step(x, t, t_next, generator)`` and says where it arrived, what its mean was (the move without the noise
drawn last) and at which time x now lives. *Predictors* move to t_next and solve an SDE; *correctors* stay at t and are MCMC for
that time's marginal (paper section 4.2). With (a, b) = noising.transition(t_next, t) and s the score at (x, t)::

    ancestral          mean = (x + b^2 s) / a                       noise b std(t_next)/std(t), or b ("forward", eq. 4)
    reverse diffusion  mean = (2 - a) x + (1 + eta^2)/2 b^2 s       noise eta b          (section 4.1, appendix E)
    Euler-Maruyama     mean = x + drift(x, t) dt                    noise g(t) sqrt|dt|
    Runge-Kutta        mean = x + (f/3 + 2 f(y, t + 3/4 dt)/3) dt   noise: the integral of g dw, for g linear in t
    Langevin           mean = x + step s                            noise sqrt(2 step)   (eq. 2)
    HMC                rolls with a random velocity, then goes or stays by Metropolis' rule

Everything that depends on time alone can be computed beforehand for a whole grid: ``plan(times)`` returns one ready step for
every interval, and ``simulate`` uses it. Direct call and plan agree exactly. ``nfe`` is how often one call evaluates the score.
Called directly, steps do not check their times, so that they stay cheap; ``simulate`` does.
"""

from sdelib.steps.composing import identity, project, resample, then
from sdelib.steps.correctors import annealed_langevin, langevin
from sdelib.steps.hamiltonian import Trajectory, hmc, leapfrog
from sdelib.steps.planned import LinearPredictor, PlannedStep
from sdelib.steps.predictors import ancestral, reverse_diffusion
from sdelib.steps.solvers import euler_maruyama, stochastic_runge_kutta

__all__ = [
    "PlannedStep",
    "LinearPredictor",
    "ancestral",
    "reverse_diffusion",
    "euler_maruyama",
    "stochastic_runge_kutta",
    "langevin",
    "annealed_langevin",
    "hmc",
    "leapfrog",
    "Trajectory",
    "identity",
    "project",
    "resample",
    "then",
]
