"""The shapes in annotations are true: a whole day's work of the library runs while each call is checked against them.

Checked in a process of its own, where jaxtyping's hook rewrites sdelib as it is imported. What users run is not rewritten, for
the hook stands in the way of torch.compile.
"""

import subprocess
import sys
import textwrap
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent

HOOK = """
import sys, types, typing
from beartype import BeartypeConf, beartype
from jaxtyping import install_import_hook

def check(fn):
    # a protocol must say that it may be asked about at run time; "Self" means nothing to who sees a method without its class
    for module in [m for name, m in sys.modules.items() if name.startswith("sdelib.")]:
        for thing in [x for x in vars(module).values() if getattr(x, "_is_protocol", False) and x is not typing.Protocol]:
            typing.runtime_checkable(thing)
    if isinstance(fn, types.FunctionType):
        fn.__annotations__ = {k: v for k, v in fn.__annotations__.items() if not str(v).endswith("Self")}
    return beartype(conf=BeartypeConf(is_pep484_tower=True))(fn)  # an int where a float is asked for is fine

sys.modules["checker"] = types.ModuleType("checker")
sys.modules["checker"].check = check
with install_import_hook("sdelib", "checker.check"):
    import torch
    from sdelib import *
    from sdelib import data, ops
    from sdelib.train import TrainConfig, new_state, train
    from sdelib.models import MLP, Classifier, UNet

g = torch.Generator().manual_seed(0)
"""

DAY = """
for shape, law in (((2,), data.gm2()), ((1, 8, 8), None)):
    x0 = law.sample(6, generator=g) if law else data.digits(data_range=(-1, 1)).images[:6]
    chain = ddpm(linear_betas(25, beta_max=10.0))
    for noising in (VE(), VP(), SubVP(), smld(geometric_sigmas(20)), chain, Chain.from_sde(VP(), torch.tensor([0.1, 0.5, 1.0]))):
        t = noising.sample_time(6, t_min=1e-3, generator=g, dtype=x0.dtype)
        x = noising.perturb(x0, t, ops.randn_like(x0, g))
        noising.transition(0.5 * t, t)
        net = net_score(MLP(shape, hidden=8, depth=1, generator=g), noising)
        dsm(noising, net, x0, generator=g)
        scores = [net] if law is None else [net, law.score_fn(noising), guided(net, law.score_fn(noising), weight=0.5)]
        for score in scores:
            denoised(noising, score, x, t)
            explicit(score, x, t)
            sliced(score, x, t, generator=g)
            finite_difference(score, x, t, h=1e-3, generator=g)
            times = noising.times() if isinstance(noising, Chain) else time_grid(4, t_min=0.25)
            for step in (
                ancestral(noising, score),
                reverse_diffusion(noising, score, eta=0.0),
                then(langevin(noising, score, n_steps=2), annealed_langevin(noising, score), ancestral(noising, score)),
                then(hmc(noising, score, n_leapfrog=2, n_steps=2), identity()),
            ):
                xT = noising.prior_sample((6, *shape), generator=g, dtype=x0.dtype)
                simulate(step, xT, times, generator=g, denoise=True, keep=3)
            if isinstance(noising, SDE):
                back = reverse(noising, score, eta=0.5)
                for solver in (euler_maruyama(*back), stochastic_runge_kutta(*back)):
                    simulate(solver, x0, [0.9, 0.5, 0.1], generator=g)
                dsm(noising, score, x0, weight="likelihood", sampling="importance", t_min=1e-3, generator=g)
                for probe in (probes(x0, generator=g)[0], probes(x0, 2, generator=g)):
                    log_likelihood(noising, score, x0, probe=probe, t_min=0.1, method="euler", n_steps=2)
            else:
                variational_bound(noising, score, torch.zeros(x0.shape, dtype=torch.long), generator=g)
        known = observe(noising, x0[0], torch.ones(shape).cumsum(-1) < 2)
        step = resample(project(ancestral(noising, net), known), noising, 2)
        start = impose(known, noising.prior_sample((6, *shape), generator=g, dtype=x0.dtype), noising.T, generator=g)
        simulate(then(project(langevin(noising, net), known), step), start, times, generator=g, denoise=True)
        sees = lambda x: x[..., :1]
        for term in (
            measured(noising, sees, sees(x0)),
            linear_guidance(noising, net, sees, sees(x0), noise_std=0.1, covariance="tweedie"),
        ):
            guided(net, term)(x, t)
        if law:
            y = torch.arange(6) % 3
            classifier_loss(noising, law.classifier(noising), x0, y, generator=g)
            guided(net, classifier_score(law.classifier(noising), y))(x, t)
            law.given([[1.0, 0.0]], [0.3], noise_std=0.1).score_fn(noising)(x, t)
            law.at(noising, 0.5).log_prob(x0)
            as_score(lambda x, t: x, noising, prediction="noise")(x, t)
        cfg = TrainConfig(steps=2, warmup=1, log_every=1)
        loss = lambda s, b, g: dsm(noising, s, b, generator=g)
        list(train(new_state(net, cfg, generator=g), loss, data.batches(x0, 4, generator=g), cfg))
tiny = {"image_size": 8, "in_channels": 1, "channels": 8, "multipliers": (1, 2), "blocks": 1, "generator": g}
x, t = torch.zeros(2, 1, 8, 8), torch.ones(2)
for way in (
    {"fir": (1, 3, 3, 1), "progressive_in": "residual", "progressive_out": "residual", "time": "fourier"},
    {"block": "ddpm", "progressive_in": "skip", "progressive_out": "skip", "combine": "cat"},
):
    net_score(UNet(**tiny, **way), VP())(x, t)
net_logits(Classifier(**tiny, time_channels=8), VE())(x, t)
affine_law(ancestral(VP(), data.g1().score_fn(VP())), Gaussian(0.0, 1.0), time_grid(5, t_min=1e-3))
for toy in (data.two_moons, data.checkerboard, data.spiral, data.pinwheel):
    toy.log_prob(toy(5, generator=g))
integers = Quantised([1.0, 2.0], torch.rand(2, 2, 3, generator=g))
y = dequantise(integers.sample(4, generator=g), levels=3, generator=g)
found = log_likelihood(VP(), integers.score_fn(VP()), y, t_min=0.1, rtol=1e-2, atol=1e-2)
bits_per_dim(found.log_prob, 2, levels=3)
integers.log_density_fn(VP())(y, torch.ones(4)) + integers.log_density(y)
integers.log_prob(integers.sample(4))
well = Ito(lambda x, t: x - x**3, lambda t: torch.ones_like(t))
simulate(euler_maruyama(well.drift, well.diffusion), torch.zeros(3, 1), [0.0, 0.1, 0.2], generator=g)
mix(grey_basis(), torch.zeros(2, 3, 4, 4))
print("done")
"""


def run(code: str) -> subprocess.CompletedProcess:
    return subprocess.run(
        [sys.executable, "-c", HOOK + textwrap.dedent(code)], cwd=ROOT, capture_output=True, text=True
    )


def test_a_days_work_keeps_to_the_annotations():
    done = run(DAY)
    assert done.returncode == 0, done.stderr[-3000:]
    assert done.stdout == "done\n"


@pytest.mark.parametrize("t", ["torch.ones(3)", "torch.ones(6, 1)"])
def test_the_hook_bites(t):
    """A time for each of six items is (6,); a check that accepts another shape checks nothing."""
    done = run(f"denoised(VP(), lambda x, t: x, torch.zeros(6, 2), {t})")
    assert done.returncode == 1
    assert "TypeCheckError" in done.stderr
