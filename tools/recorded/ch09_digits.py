"""Chapter 9's third table: the paper's table 1 in small, with the two U-Nets of ``digits_nets`` on the 8 x 8 digits.

python tools/recorded/ch09_digits.py                      about ten minutes of one core
python tools/recorded/ch09_digits.py --quick --where DIR  a few steps of everything, for the tests

Three predictors, each alone with N steps (P) and with 2 N (P2), and with one Langevin step before each of N (PC); Langevin
alone with 2 N (C2); for VE and for VP, 500 pictures for each of three seeds. Apart from P all cost 2 N evaluations. Two values of
r, one for PC and one for C2, are chosen for each SDE beforehand, by the Frechet distance to the *training* digits, with another
seed.

A cell's pictures are compared, in the units of [0, 1], with the 300 digits kept aside by the energy distance, which has no bias,
and with the training digits by the Frechet distance of the bare pixels (means and covariances of 64 numbers), which sees fine
noise better and is biased upwards at 500 pictures. ``floor`` is what 500 training digits themselves get; ``fine`` what the
network gives with ten times as many steps, which is the network's own error and no longer the sampler's.
"""

import sys
import time
from collections.abc import Callable
from typing import Any, NamedTuple

import torch
from torch import Tensor

from sdelib import (
    VE,
    VP,
    ancestral,
    data,
    identity,
    langevin,
    net_score,
    recorded,
    reverse_diffusion,
    simulate,
    then,
    time_grid,
)
from sdelib.metrics import energy_distance
from sdelib.models import ddpmpp, ncsnpp
from sdelib.sde import SDE
from sdelib.types import ScoreFn, Step

NAME = "ch09_digits"
N = 30
PICTURES = 500
SEEDS = [0, 1, 2]
TUNING_SEED = 9
RATIOS = {"PC": [0.1, 0.16, 0.25, 0.35], "C2": [0.3, 0.45, 0.6, 0.8]}
SHOWN = 10


class Setting(NamedTuple):
    """A noising with its score, the end of its grid and the range of its pictures."""

    sde: SDE
    score: ScoreFn
    t_min: float
    low: float


def settings() -> dict[str, Setting]:
    """VE and VP with their recorded networks."""
    record = recorded.read("digits_nets")
    ve, vp = VE(sigma_max=record.data["ve"]["sigma_max"]), VP()
    ve_net = record.load(ncsnpp(**record.data["ve"]["net"]), "ve")
    vp_net = record.load(ddpmpp(**record.data["vp"]["net"]), "vp")
    return {
        "ve": Setting(ve, net_score(ve_net, ve).eval(), 1e-5, 0.0),
        "vp": Setting(vp, net_score(vp_net, vp).eval(), 1e-3, -1.0),
    }


def predictors(one: Setting) -> dict[str, Step]:
    """The three of table 1."""
    return {
        "ancestral": ancestral(one.sde, one.score),
        "reverse": reverse_diffusion(one.sde, one.score),
        "flow": reverse_diffusion(one.sde, one.score, eta=0.0),
    }


def pictures(one: Setting, step: Step, steps: int, n: int, seed: int) -> tuple[Tensor, int]:
    """n pictures in [0, 1] by a number of steps, the last one's mean, and the evaluations they took."""
    generator = torch.Generator().manual_seed(seed)
    x = one.sde.prior_sample((n, 1, 8, 8), generator=generator)
    path = simulate(step, x, time_grid(steps, t_min=one.t_min), generator=generator, denoise=True)
    return (path.x - one.low) / (1 - one.low), path.nfe


def frechet(x: Tensor, y: Tensor) -> float:
    """|m - m'|^2 + tr(C + C' - 2 (C C')^1/2) for the samples' means and covariances: the FID's formula on pixels."""
    a, b = x.flatten(1).double(), y.flatten(1).double()
    values, axes = torch.linalg.eigh(a.T.cov())
    root = axes @ torch.diag(values.clamp_min(0).sqrt()) @ axes.T
    mixed = torch.linalg.eigvalsh(root @ b.T.cov() @ root).clamp_min(0).sqrt().sum()
    return float(((a.mean(0) - b.mean(0)) ** 2).sum() + a.T.cov().trace() + b.T.cov().trace() - 2 * mixed)


def main(arguments: list[str] | None = None) -> int:
    """Sample and measure everything, and write the record."""
    args = recorded.options(__doc__, arguments)
    torch.set_num_threads(1)
    steps, n, seeds = (3, 12, SEEDS[:2]) if args.quick else (N, PICTURES, SEEDS)
    started, busy = time.time(), time.process_time()
    train, unseen = (data.digits(split=split).images for split in ("train", "test"))

    def measured(x: Tensor) -> dict[str, float]:
        return {"energy": float(energy_distance(x, unseen)), "frechet": frechet(x, train)}

    results: dict[str, Any] = {"floor": floor(train, unseen, n, measured)}
    for key, one in settings().items():
        tuning: dict[str, list[float]] = {}
        for cell, ratios in RATIOS.items():
            tuning[cell] = []
            for r in ratios:
                corrector = langevin(one.sde, one.score, snr=r)
                trial = then(corrector, reverse_diffusion(one.sde, one.score) if cell == "PC" else identity())
                x, _ = pictures(one, trial, steps if cell == "PC" else 2 * steps, n, TUNING_SEED)
                tuning[cell].append(frechet(x, train))
        best = {cell: RATIOS[cell][tuning[cell].index(min(tuning[cell]))] for cell in RATIOS}
        print(key, "r", best, tuning, f"{time.process_time() - busy:.0f} s", flush=True)

        plans: dict[str, tuple[Step, int]] = {}
        for name, predictor in predictors(one).items():
            plans[f"{name} P"] = predictor, steps
            plans[f"{name} P2"] = predictor, 2 * steps
            plans[f"{name} PC"] = then(langevin(one.sde, one.score, snr=best["PC"]), predictor), steps
        plans["C2"] = then(langevin(one.sde, one.score, snr=best["C2"]), identity()), 2 * steps
        cells: dict[str, Any] = {}
        for cell, (step, count) in plans.items():
            found = [pictures(one, step, count, n, seed) for seed in seeds]
            scores = [measured(x) for x, _ in found]
            cells[cell] = {name: [score[name] for score in scores] for name in scores[0]}
            cells[cell]["nfe"] = found[0][1]
            cells[cell]["shown"] = [[round(v, 2) for v in x.flatten().tolist()] for x in found[0][0][:SHOWN]]
            print(
                key,
                cell,
                cells[cell]["energy"],
                cells[cell]["frechet"],
                f"{time.process_time() - busy:.0f} s",
                flush=True,
            )
        x, nfe = pictures(one, predictors(one)["reverse"], 10 * steps, n, SEEDS[0])
        results[key] = {
            "r": best,
            "ratios": RATIOS,
            "tuning": tuning,
            "cells": cells,
            "fine": measured(x) | {"nfe": nfe},
        }
        print(key, "fine", results[key]["fine"], f"{time.process_time() - busy:.0f} s", flush=True)

    config = {"N": steps, "pictures": n, "core_minutes": round((time.process_time() - busy) / 60, 1)}
    path = recorded.write(
        NAME,
        results,
        script=f"tools/recorded/{NAME}.py",
        config=config,
        seeds=[*seeds, TUNING_SEED],
        started=started,
        where=args.where,
    )
    print(f"wrote {path}")
    return 0


def floor(train: Tensor, unseen: Tensor, n: int, measured: Callable[[Tensor], dict[str, float]]) -> dict[str, Any]:
    """What n training digits get, twenty times, and what the unseen ones get against the training digits."""
    generator = torch.Generator().manual_seed(TUNING_SEED)
    draws = [measured(train[torch.randperm(len(train), generator=generator)[:n]]) for _ in range(20)]
    return {name: [draw[name] for draw in draws] for name in draws[0]} | {"unseen": frechet(unseen, train)}


if __name__ == "__main__":
    sys.exit(main())
