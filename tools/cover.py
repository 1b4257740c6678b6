"""Draw the README's picture, book/_static/cover.png: noise forward, noise backward, one density behind both.

Everything in it is computed by sdelib: the exact density of a two-mode mixture under VP at every time, six paths of the forward
SDE (eq. 5), and six paths of the reverse SDE (eq. 6) that start from fresh noise and are steered by the exact score alone.
"""

import io
import warnings
from pathlib import Path

import matplotlib

matplotlib.use("Agg")

import torch
from PIL import Image

from sdelib import VP, euler_maruyama, plot, reverse, simulate, time_grid
from sdelib.data import gm1

TARGET = Path(__file__).resolve().parent.parent / "book" / "_static" / "cover.png"
SEED, PATHS, STEPS = 4, 6, 800


def draw(target: Path) -> None:
    plot.style()
    law, sde = gm1(distance=3.0), VP()
    g = torch.Generator().manual_seed(SEED)
    backward = time_grid(STEPS, t_min=1e-3)[:-1]  # Euler-Maruyama ends at t_min
    forward = backward.flip(0)

    down = simulate(
        euler_maruyama(sde.drift, sde.diffusion), law.sample(PATHS, generator=g), forward, generator=g, keep=300
    )
    drift, diffusion = reverse(sde, law.score_fn(sde))
    start = sde.prior_sample((PATHS, 1), generator=g)
    up = simulate(euler_maruyama(drift, diffusion), start, backward, generator=g, keep=300)

    assert down.xs is not None and up.xs is not None  # keep=300 asks for them

    fig, axes = plot.panels(
        2, 1, height=5.2, titles=["forward: noise needs no teaching", "backward: the score shows the way"]
    )
    plot.marginals(axes, law, [sde, sde], lim=3.2)
    plot.paths(axes[0], down.times, down.xs, "forward", n=PATHS)
    plot.paths(axes[1], up.times, up.xs, "backward", n=PATHS)
    pixels = io.BytesIO()
    fig.savefig(pixels)
    # 96 colours are all that this picture has, but for the shades at the edges of lines: a third of the size
    Image.open(pixels).convert("RGB").quantize(96, dither=Image.Dither.NONE).save(target, optimize=True)


def main() -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        draw(TARGET)
    print(f"{TARGET.name}: {TARGET.stat().st_size / 1000:.0f} kB")


if __name__ == "__main__":
    main()
