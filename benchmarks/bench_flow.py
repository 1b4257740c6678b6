"""What do the flow's promises cost?

`flow` beside the solvers it drives, called directly on the same problem, microseconds of CPU an evaluation of the score:

- torchdiffeq's `odeint` with dopri5 and rk4;
- scipy's `solve_ivp` with RK45, its arrays turned into tensors and back for the score, as the authors' code does.

Both are given eq. 13 for VP written out by hand, with beta(t) as it stands in the paper. The difference is the price of counting,
of looking for NaN at each evaluation, of coefficients in float64 and of taking any noising. Points are 2D and the score is a
Gaussian's, so that no network hides it. Data are float64: in float32 roundings decide which steps are accepted, and two solves
differ by a step. Before anything is timed, both must end at the same points after the same number of evaluations. The two of a
row run by turns, and each number is the best of several runs.
"""

import platform
import time
from collections.abc import Callable

import numpy as np
import scipy
import torch
import torchdiffeq
from scipy.integrate import solve_ivp
from torch import Tensor

import sdelib
from sdelib import VP, flow
from sdelib.ode import _worst_item

BATCHES = (1, 1_000, 10_000)
REPEATS = 15
SDE = VP()
T_MIN = 1e-3
VARIANCES = (0.25, 4.0)
TOLERANCE = 1e-5

Run = Callable[[], tuple[object, int]]
"""One solve: where it ended, and its evaluations."""


class Counted:
    """The score of N(0, diag(VARIANCES)) along VP, and how often it was asked."""

    def __init__(self) -> None:
        self.calls, self.variances = 0, torch.tensor(VARIANCES, dtype=torch.float64)

    def __call__(self, x: Tensor, t: Tensor) -> Tensor:
        self.calls += 1
        kept = torch.exp(-t * (0.1 + 9.95 * t))[:, None]
        return -x / (1.0 + kept * (self.variances - 1.0))


def ours(xT: Tensor, method: str) -> Run:
    def run() -> tuple[object, int]:
        end = flow(SDE, Counted(), xT, 1.0, T_MIN, method=method, rtol=TOLERANCE, atol=TOLERANCE)
        return end.x, end.nfe

    return run


def of_torchdiffeq(xT: Tensor, method: str) -> Run:
    ends = torch.tensor([1.0, T_MIN], dtype=torch.float64)
    if method == "rk4":
        options = {"step_size": (1.0 - T_MIN) / 100}
    else:  # the same steps, so that the same work is done
        options = {"norm": _worst_item, "first_step": 0.01 * (1.0 - T_MIN), "step_t": ends[1:]}

    def run() -> tuple[object, int]:
        score = Counted()

        def velocity(t: Tensor, x: Tensor) -> Tensor:
            return -0.5 * (0.1 + 19.9 * t) * (x + score(x, t.expand(len(x))))

        with torch.no_grad():
            out = torchdiffeq.odeint(
                velocity, xT, ends, method=method, rtol=TOLERANCE, atol=TOLERANCE, options=dict(options)
            )
        return out[-1], score.calls

    return run


def of_scipy(xT: Tensor, method: str) -> Run:
    def run() -> tuple[object, int]:
        score = Counted()

        def velocity(t: float, y: np.ndarray) -> np.ndarray:
            x = torch.from_numpy(y.reshape(-1, 2))
            with torch.no_grad():
                v = -0.5 * (0.1 + 19.9 * t) * (x + score(x, torch.full((len(x),), t, dtype=x.dtype)))
            return v.numpy().ravel()

        end = solve_ivp(velocity, (1.0, T_MIN), xT.numpy().ravel(), method=method, rtol=TOLERANCE, atol=TOLERANCE)
        return torch.from_numpy(end.y[:, -1].reshape(-1, 2)), score.calls

    return run


def same(theirs: Run, mine: Run) -> None:
    """The same points and evaluations."""
    (a, n), (b, m) = theirs(), mine()
    torch.testing.assert_close(a, b, rtol=1e-9, atol=1e-9)
    assert n == m, f"{n} evaluations against {m}"


def best(runs: tuple[Run, Run]) -> list[float]:
    """Microseconds an evaluation of each: of CPU time, one thread's, which other programs disturb less than the clock's."""
    costs: list[list[float]] = [[], []]
    for _ in range(REPEATS + 1):  # the first round warms caches and does not count
        for run, own in zip(runs, costs, strict=True):
            start = time.process_time()
            _, nfe = run()
            own.append((time.process_time() - start) / nfe * 1e6)
    return [min(own[1:]) for own in costs]


def main() -> None:
    torch.set_num_threads(1)  # steadier, and at these sizes threads gain little
    rows = [
        ("dopri5", "torchdiffeq", of_torchdiffeq),
        ("rk4", "torchdiffeq", of_torchdiffeq),
        ("RK45", "scipy", of_scipy),
    ]
    print("microseconds of CPU an evaluation; ratio = flow / theirs")
    print(f"{'method':<8} {'beside':<12} {'batch':>7} {'evaluations':>12} {'theirs':>8} {'flow':>8} {'ratio':>6}")
    for method, beside, build in rows:
        for batch in BATCHES:
            xT = torch.randn(batch, 2, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
            pair = build(xT, method), ours(xT, method)
            same(*pair)
            theirs, mine = best(pair)
            nfe = pair[1]()[1]
            print(
                f"{method:<8} {beside:<12} {batch:>7,} {nfe:>12} {theirs:>8.1f} {mine:>8.1f} {mine / theirs:>6.2f}",
                flush=True,
            )
    versions = ", ".join(f"{m.__name__} {m.__version__}" for m in (sdelib, torch, torchdiffeq, scipy))
    print(f"{versions}, Python {platform.python_version()}, one thread")
    print(f"{platform.processor() or platform.machine()}, {platform.system()}")


if __name__ == "__main__":
    main()
