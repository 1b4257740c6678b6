"""What does the one loop cost?

`simulate` with reverse diffusion on VP, beside a loop written by hand for this one purpose: the same grid, score and number of
draws, its coefficients worked out beforehand as plain floats, no checks. Their difference is the price of the library's
generality. Points are 2D and the score is that of N(0, I), so that the network does not hide the loop.

Each number is the best of several runs, for the best run is disturbed least. Both loops are checked to give the same points.
"""

import platform
import time
from collections.abc import Callable

import torch
from torch import Tensor

import sdelib
from sdelib import VP, reverse_diffusion, simulate, time_grid

STEPS = 500
BATCHES = (1, 1_000, 10_000)
REPEATS = 7


def score(x: Tensor, t: Tensor) -> Tensor:
    """Of N(0, I), which VP leaves as it is at every time."""
    return -x


def by_hand(x: Tensor, coefficients: list[tuple[float, float]], g: torch.Generator) -> Tensor:
    t = x.new_zeros(len(x))
    with torch.no_grad():
        for a, b in coefficients:
            mean = (2 - a) * x + b * b * score(x, t)
            x = mean + b * torch.randn(x.shape, generator=g, dtype=x.dtype)
    return x


def best(run: Callable[[], object]) -> float:
    """Microseconds a step."""
    run()  # the first one warms caches
    seconds = []
    for _ in range(REPEATS):
        start = time.perf_counter()
        run()
        seconds.append(time.perf_counter() - start)
    return min(seconds) / STEPS * 1e6


def main() -> None:
    torch.set_num_threads(1)  # steadier, and at these sizes threads gain little
    sde = VP()
    times = time_grid(STEPS, t_min=1e-3)
    step = reverse_diffusion(sde, score)
    a, b = sde.transition(times[1:], times[:-1])
    coefficients = list(zip(a.tolist(), b.tolist(), strict=True))

    def seeded() -> torch.Generator:
        return torch.Generator().manual_seed(0)

    print(f"{'batch':>7} {'hand-written':>13} {'simulate':>9} {'ratio':>6}   (microseconds a step, {STEPS} steps)")
    for batch in BATCHES:
        xT = torch.randn(batch, 2, generator=seeded())
        torch.testing.assert_close(
            by_hand(xT, coefficients, seeded()), simulate(step, xT, times, generator=seeded()).x, rtol=1e-4, atol=1e-4
        )
        hand = best(lambda x=xT: by_hand(x, coefficients, seeded()))
        ours = best(lambda x=xT: simulate(step, x, times, generator=seeded()))
        print(f"{batch:>7,} {hand:>13.1f} {ours:>9.1f} {ours / hand:>6.2f}")
    print(f"sdelib {sdelib.__version__}, torch {torch.__version__}, Python {platform.python_version()}, one thread")
    print(f"{platform.processor() or platform.machine()}, {platform.system()}")


if __name__ == "__main__":
    main()
