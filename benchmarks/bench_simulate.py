"""What does the one loop cost?

`simulate` beside others that do the same work, microseconds a step:

- a loop written by hand for this one purpose: reverse diffusion on VP, coefficients worked out beforehand as plain floats, no
  checks. The difference is the price of the library's generality, and the ratio is meant to stay at 2 or below;
- torchsde's Euler and SRK schemes on the reverse SDE of VP;
- diffusers' DDPM scheduler, driven as its pipelines do.

Points are 2D and the score is that of N(0, I), which VP leaves as it is, so that no network hides the loop. Before anything is
timed, each pair must give the same points from the same noise. Times are those of the processor, which other programs lengthen
less than the clock's; the two of a row run by turns, and each number is the best of several runs, which was disturbed least.
"""

import itertools
import math
import platform
import time
from collections.abc import Callable

import diffusers
import torch
import torchsde
from torch import Tensor, nn

import sdelib
from sdelib import VP, ancestral, ddpm, euler_maruyama, linear_betas, reverse, reverse_diffusion, simulate, time_grid
from sdelib import stochastic_runge_kutta as runge_kutta

STEPS = 500
BATCHES = (1, 1_000, 10_000)
REPEATS = 7
SDE = VP()
T_MIN = 1e-3

Run = Callable[[], object]


def score(x: Tensor, t: Tensor) -> Tensor:
    """Of N(0, I), which VP leaves as it is at every time."""
    return -x


def seeded() -> torch.Generator:
    return torch.Generator().manual_seed(0)


# ---------------------------------------------------------------- by hand
def by_hand(xT: Tensor) -> tuple[Run, Run]:
    times, step = time_grid(STEPS, t_min=T_MIN), reverse_diffusion(SDE, score)
    a, b = SDE.transition(times[1:], times[:-1])
    coefficients = list(zip(a.tolist(), b.tolist(), strict=True))

    def loop(g: torch.Generator) -> Tensor:
        x, t = xT, xT.new_zeros(len(xT))
        with torch.no_grad():
            for a, b in coefficients:
                mean = (2 - a) * x + b * b * score(x, t)
                x = mean + b * torch.randn(x.shape, generator=g, dtype=x.dtype)
        return x

    same(loop(seeded()), simulate(step, xT, times, generator=seeded()).x)
    return lambda: loop(seeded()), lambda: simulate(step, xT, times, generator=seeded())


# ---------------------------------------------------------------- torchsde
class Reverse(nn.Module):
    """VP's reverse SDE in torchsde's terms: its time rises, so it is u = 1 - t."""

    sde_type = "ito"

    def __init__(self, noise_type: str, dim: int) -> None:
        super().__init__()
        self.noise_type, self.dim = noise_type, dim

    def f(self, u: Tensor, x: Tensor) -> Tensor:
        beta = SDE.beta(1.0 - u)
        return 0.5 * beta * x + beta * score(x, u)

    def g(self, u: Tensor, x: Tensor) -> Tensor:
        g = SDE.beta(1.0 - u).sqrt()
        if self.noise_type == "diagonal":
            return g.expand_as(x)
        return (g * torch.eye(self.dim)).expand(len(x), self.dim, self.dim)


class SameMotion:
    """torchsde's Brownian motion as our unit noise: its increments, and for Runge-Kutta its areas."""

    def __init__(self, motion: torchsde.BrownianInterval, u: Tensor, areas: bool) -> None:
        noises = []
        for start, end in itertools.pairwise(u):
            h = float(end - start)
            increment, *area = motion(start, end, return_U=True) if areas else (motion(start, end),)
            z = increment / math.sqrt(h)
            noises += [z, *((2 * v / h**1.5 - z) * math.sqrt(3) for v in area)]
        self.noises = iter(noises)

    def randn_like(self, x: Tensor) -> Tensor:
        return next(self.noises)


def of_torchsde(xT: Tensor, method: str) -> tuple[Run, Run]:
    step = (euler_maruyama if method == "euler" else runge_kutta)(*reverse(SDE, score))
    theirs = Reverse("diagonal" if method == "euler" else "additive", xT.shape[1])
    times = torch.linspace(1.0, T_MIN, STEPS + 1, dtype=torch.float64)
    dt = float(times[0] - times[1])
    ends = torch.tensor([0.0, 1.0 - T_MIN])
    area = "none" if method == "euler" else "space-time"

    def motion() -> torchsde.BrownianInterval:
        return torchsde.BrownianInterval(
            0.0, 1.0, size=xT.shape, dtype=xT.dtype, entropy=0, levy_area_approximation=area
        )

    def solve(bm: torchsde.BrownianInterval) -> Tensor:
        with torch.no_grad():
            return torchsde.sdeint(theirs, xT, ends, bm=bm, method=method, dt=dt)[-1]

    u = 1.0 - times.float()
    same(solve(motion()), simulate(step, xT, times, generator=SameMotion(motion(), u, method != "euler")).x)
    return lambda: solve(motion()), lambda: simulate(step, xT, times, generator=seeded())


# ---------------------------------------------------------------- diffusers
def of_diffusers(xT: Tensor) -> tuple[Run, Run]:
    betas = linear_betas(STEPS)
    chain = ddpm(betas)
    step, times = ancestral(chain, score), chain.times()
    stds = chain.std(times[:-1]).tolist()
    scheduler = diffusers.DDPMScheduler(
        STEPS, trained_betas=betas.tolist(), variance_type="fixed_small", clip_sample=False
    )

    def loop(g: torch.Generator) -> Tensor:
        scheduler.set_timesteps(STEPS)
        x = xT
        with torch.no_grad():
            for t, std in zip(scheduler.timesteps, stds, strict=True):
                noise = -std * score(x, t)  # what its networks predict
                x = scheduler.step(noise, t, x, generator=g).prev_sample
        return x

    same(loop(seeded()), simulate(step, xT, times, generator=seeded()).x)
    return lambda: loop(seeded()), lambda: simulate(step, xT, times, generator=seeded())


# ---------------------------------------------------------------- the table
def same(theirs: Tensor, ours: Tensor) -> None:
    """The two ends of the same walk; float32 roundings and float32 tables add up over the steps."""
    torch.testing.assert_close(theirs, ours, rtol=1e-3, atol=1e-3)


def best(runs: tuple[Run, Run]) -> list[float]:
    """Microseconds a step of each."""
    seconds = [[], []]
    for _ in range(REPEATS + 1):  # the first round warms caches and does not count
        for run, own in zip(runs, seconds, strict=True):
            start = time.process_time()
            run()
            own.append(time.process_time() - start)
    return [min(own[1:]) / STEPS * 1e6 for own in seconds]


def main() -> None:
    torch.set_num_threads(1)  # steadier, and at these sizes threads gain little
    rows: list[tuple[str, str, Callable[[Tensor], tuple[Run, Run]]]] = [
        ("reverse diffusion", "by hand", by_hand),
        ("Euler-Maruyama", "torchsde", lambda xT: of_torchsde(xT, "euler")),
        ("Runge-Kutta", "torchsde", lambda xT: of_torchsde(xT, "srk")),
        ("DDPM, ancestral", "diffusers", of_diffusers),
    ]
    print(f"processor microseconds a step, {STEPS} steps; ratio = simulate / theirs")
    print(f"{'work':<18} {'beside':<10} {'batch':>7} {'theirs':>9} {'simulate':>9} {'ratio':>6}")
    for work, beside, build in rows:
        for batch in BATCHES:
            theirs, ours = best(build(torch.randn(batch, 2, generator=seeded())))
            print(f"{work:<18} {beside:<10} {batch:>7,} {theirs:>9.1f} {ours:>9.1f} {ours / theirs:>6.2f}", flush=True)
    versions = ", ".join(f"{m.__name__} {m.__version__}" for m in (sdelib, torch, torchsde, diffusers))
    print(f"{versions}, Python {platform.python_version()}, one thread")
    print(f"{platform.processor() or platform.machine()}, {platform.system()}")


if __name__ == "__main__":
    main()
