"""DDPM's variational bound for the networks of chapter 11's table 2, term by term, on the first 60 digits kept aside.

python tools/recorded/ch11_bound.py                      about six minutes of one core
python tools/recorded/ch11_bound.py --quick --where DIR  a few steps of everything, for the tests

The chain has the SDE's marginals at 1,000 even times and posterior variances. Each network is asked twice. *Integers*: the bound
on -log P of the bare levels, as DDPM takes it; the five networks trained on dequantised digits see a level in the middle of its
cell, "integers", the network trained on bare levels, where it was trained. *Dequantised*: the bound on -log p of the very points
that ``ch11_likelihood`` judges, told as integers of 4,096 levels a cell, less their 12 bits a number. The chain may also begin at
a later level; only the decoder changes then, so that it is stored for several levels, and the terms once. The decoder's standard
deviation is the noise over the picture at the level it starts from: that of x_0 given x_1 where the data are flat.
"""

import math
import sys
import time
from typing import Any

import torch
from ch11_digits import LEVELS
from ch11_likelihood import networks
from torch import Tensor

from sdelib import Chain, data, dequantise, probes, recorded, variational_bound
from sdelib.sde import SDE
from sdelib.types import ScoreFn

NAME = "ch11_bound"
N = 1000
DIGITS = 60
FINE = 4096
RATIOS = [0.05, 0.1, 0.2, 0.3, 0.45, 0.7, 1.0, 1.3]  # of the first level's noise to a cell
SEED = 97


def begin(sde: SDE, n: int, cell: float) -> list[int]:
    """The levels, counted from 0, whose noise over the picture comes first above each ratio to a cell; the first one too."""
    times = torch.arange(1, n + 1, dtype=torch.float64) / n
    noise = sde.std(times) / sde.scale(times) / cell
    return sorted({0} | {min(int((noise < ratio).sum()), n - 2) for ratio in RATIOS})


def decoder(sde: SDE, score: ScoreFn, k: Tensor, n: int, first: int, **how: Any) -> tuple[float, Tensor]:
    """Noise over the picture at the chain's level ``first``, and L_0 of a chain that begins there, an item at a time."""
    times = torch.tensor([first + 1, first + 2], dtype=torch.float64) / n
    at = times.float()
    shifted: ScoreFn = lambda x, t: score(x, at[(2 * t - 1).round().long()].to(x))  # noqa: E731
    noise = float(sde.std(times[0]) / sde.scale(times[0]))
    return noise, variational_bound(Chain.from_sde(sde, times), shifted, k, decoder_std=noise, **how).decoder


def ask(sde: SDE, score: ScoreFn, k: Tensor, levels: int, n: int, grid: str, data_range: tuple[float, float]) -> Any:
    """Prior, terms and decoders, bits a dimension, and the bound of every item for each beginning."""
    generator = torch.Generator().manual_seed(SEED)
    how: dict[str, Any] = {"levels": levels, "data_range": data_range, "grid": grid, "generator": generator}
    bits = 1.0 / (k[0].numel() * math.log(2))
    times = torch.arange(1, n + 1, dtype=torch.float64) / n
    whole = variational_bound(Chain.from_sde(sde, times), score, k, **how)
    cell = (data_range[1] - data_range[0]) / (LEVELS - (grid == "ends"))
    begins = {}
    for first in begin(sde, n, cell):
        noise, last = decoder(sde, score, k, n, first, **how)
        total = whole.prior + whole.terms[first:].sum(0) + last
        begins[first] = {
            "ratio": noise / cell,
            "decoder": float(last.mean()) * bits,
            "total": (total * bits).tolist(),
        }
    return {
        "prior": float(whole.prior.mean()) * bits,
        "terms": (whole.terms.mean(1) * bits).tolist(),
        "noise": (sde.std(times) / sde.scale(times) / cell).tolist(),
        "begins": begins,
    }


def main(arguments: list[str] | None = None) -> int:
    """Ask all six and write the record."""
    args = recorded.options(__doc__, arguments)
    torch.set_num_threads(1)
    started, busy = time.time(), time.process_time()
    n, many = (6, 2) if args.quick else (N, DIGITS)
    k = data.digits(data_range=(0.0, 16.0), split="test").images
    generator = torch.Generator().manual_seed(98)  # of ch11_likelihood
    y = dequantise(k, levels=LEVELS, generator=generator)
    probes(y, 1, generator=generator)
    fine = (y.double() * LEVELS * FINE).floor().long().clamp(0, LEVELS * FINE - 1)[:many]
    whole = k.long()[:many]
    found: dict[str, Any] = {}
    for key, (sde, score, data_range) in networks().items():
        bare = key == "integers"
        found[key] = {"integers": ask(sde, score, whole, LEVELS, n, "ends" if bare else "centres", data_range)}
        if not bare:
            told = ask(sde, score, fine, LEVELS * FINE, n, "centres", data_range)
            for one in told["begins"].values():
                one["decoder"] -= math.log2(FINE)
                one["total"] = [bits - math.log2(FINE) for bits in one["total"]]
            found[key]["dequantised"] = told
        print(f"{key}, {time.process_time() - busy:.0f} s", flush=True)

    path = recorded.write(
        NAME,
        found,
        script=f"tools/recorded/{NAME}.py",
        config={
            "levels": n,
            "digits": many,
            "fine": FINE,
            "variance": "posterior",
            "core_minutes": round((time.process_time() - busy) / 60, 1),
        },
        seeds=[SEED, 98],
        started=started,
        where=args.where,
    )
    print(f"wrote {path}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
