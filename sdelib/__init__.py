r"""Score-based generative modelling through stochastic differential equations.

Noise lives in the SDE, knowledge in the score, motion in the step, patience in the loop::

    sde = VP()                                            # data to noise
    score = GaussianMixture(...).score_fn(sde)            # exact, or net_score(net, sde) once trained by dsm(...)
    step = then(langevin(sde, score), ancestral(sde, score))
    simulate(step, sde.prior_sample((1000, 2)), time_grid(1000, t_min=1e-3), denoise=True).x

Equation, table and section numbers are those of Song et al., "Score-Based Generative Modeling through Stochastic
Differential Equations" (ICLR 2021).
"""

from sdelib.affine import affine_law
from sdelib.bound import Bound, variational_bound
from sdelib.chain import Chain, ddpm, geometric_sigmas, linear_betas, smld
from sdelib.control import classifier_loss, classifier_score, grey_basis, impose, mix, observe
from sdelib.divergence import divergence, probes, value_and_divergence
from sdelib.exact import Gaussian, GaussianMixture
from sdelib.inverse import linear_guidance, measured
from sdelib.likelihood import Likelihood, bits_per_dim, dequantise, log_likelihood
from sdelib.losses import dsm, explicit, finite_difference, sliced
from sdelib.ode import Flow, SolverError, flow
from sdelib.ops import bcast, randn_like, time_grid
from sdelib.quantised import Quantised
from sdelib.reversal import reverse, reverse_general
from sdelib.score import NetLogits, NetScore, as_score, convert, denoised, grad_of, guided, net_logits, net_score
from sdelib.sde import SDE, VE, VP, Ito, Noising, SubVP
from sdelib.simulation import NonFiniteError, Path, simulate
from sdelib.steps import (
    ancestral,
    annealed_langevin,
    euler_maruyama,
    hmc,
    identity,
    langevin,
    project,
    resample,
    reverse_diffusion,
    stochastic_runge_kutta,
    then,
)

# The name `train` is the function here; the module is reached by `from sdelib.train import ...` and `python -m`.
from sdelib.train import TrainConfig, new_state, train
from sdelib.types import Constraint, Data, Diffusion, Drift, PerItem, ScoreFn, Step, Stepped, Time

__version__ = "0.1.0"

__all__ = [
    "SDE",
    "VE",
    "VP",
    "Bound",
    "Chain",
    "Constraint",
    "Data",
    "Diffusion",
    "Drift",
    "Flow",
    "Gaussian",
    "GaussianMixture",
    "Ito",
    "Likelihood",
    "NetLogits",
    "NetScore",
    "Noising",
    "NonFiniteError",
    "Path",
    "PerItem",
    "Quantised",
    "ScoreFn",
    "SolverError",
    "Step",
    "Stepped",
    "SubVP",
    "Time",
    "TrainConfig",
    "affine_law",
    "ancestral",
    "annealed_langevin",
    "as_score",
    "bcast",
    "bits_per_dim",
    "classifier_loss",
    "classifier_score",
    "convert",
    "ddpm",
    "denoised",
    "dequantise",
    "divergence",
    "dsm",
    "euler_maruyama",
    "explicit",
    "finite_difference",
    "flow",
    "geometric_sigmas",
    "grad_of",
    "grey_basis",
    "guided",
    "hmc",
    "identity",
    "impose",
    "langevin",
    "linear_betas",
    "linear_guidance",
    "log_likelihood",
    "measured",
    "mix",
    "net_logits",
    "net_score",
    "new_state",
    "observe",
    "probes",
    "project",
    "randn_like",
    "resample",
    "reverse",
    "reverse_diffusion",
    "reverse_general",
    "simulate",
    "sliced",
    "smld",
    "stochastic_runge_kutta",
    "then",
    "time_grid",
    "train",
    "value_and_divergence",
    "variational_bound",
]
