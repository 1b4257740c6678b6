"""Chapter 11's table 2: exact bits per dimension of VP, sub-VP and VE, on cells of known entropy and on the 8 x 8 digits.

python tools/recorded/ch11_likelihood.py                      about ten minutes of one core
python tools/recorded/ch11_likelihood.py --quick --where DIR  a few steps of everything, for the tests

*Cells.* A law of two numbers in 0..7 that is written out, so that its entropy is known. MLPs learn its dequantised form under the
three SDEs, VP and sub-VP with both weights of the loss, from four seeds each. Stored is by how many bits a dimension the exact
likelihood of 2,000 fresh points misses that of the law itself; the same points judge all networks. Every network hears
log std/scale, the noise over the picture, so that none has a better ear than another.

*Digits.* The networks of ``ch11_digits``, trained on dequantised digits, and beside them the VP network of ``digits_nets``,
trained on the bare levels as DDPM's was. Each judges the same 300 digits kept aside, with the same noise and one probe of signs
each. ``t_min`` and the tolerance are varied on the first 60.
"""

import math
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import Any, NamedTuple, cast

import torch
from ch11_digits import IMPORTANCE_FROM, LEVELS, NETS, architecture, noising
from torch import Tensor

from sdelib import VE, VP, SubVP, bits_per_dim, data, dequantise, dsm, log_likelihood, net_score, probes, recorded
from sdelib.models import MLP, ddpmpp
from sdelib.score import NetScore
from sdelib.sde import SDE
from sdelib.train import POINTS, TrainConfig, new_state, train
from sdelib.types import ScoreFn

NAME = "ch11_likelihood"
SIDE = 8  # the levels of a cell's two numbers
SEEDS = [0, 1, 2, 3]
JUDGED = 2000
RUN = replace(POINTS, steps=3000, ema_decay=0.999, log_every=500)
BATCH = 512
MLP_SIZE = {"hidden": 128, "depth": 3}
T_MINS = [1e-5, 1e-4, 1e-3, 1e-2]
TOLERANCES = [1e-5, 1e-4, 1e-3]
TOLERANCE = 1e-4


class Row(NamedTuple):
    """An SDE, the range its data are scaled to, and the weights of the loss."""

    sde: SDE
    data_range: tuple[float, float]
    weight: str


ROWS = {
    "vp": Row(VP(), (-1.0, 1.0), "variance"),
    "subvp": Row(SubVP(), (-1.0, 1.0), "variance"),
    "ve": Row(VE(sigma_max=2.0), (0.0, 1.0), "variance"),  # a little more than the diagonal, 1.41
    "vp_likelihood": Row(VP(), (-1.0, 1.0), "likelihood"),
    "subvp_likelihood": Row(SubVP(), (-1.0, 1.0), "likelihood"),
}


def cells() -> Tensor:
    """P(i, j) for i, j in 0..7: three hills, each a product."""
    level = torch.arange(SIDE, dtype=torch.float64)
    centres = torch.tensor([[1.5, 5.5], [5.0, 5.0], [3.5, 1.5]], dtype=torch.float64)
    widths = torch.tensor([[0.8, 1.0], [1.2, 0.7], [1.5, 0.6]], dtype=torch.float64)
    hills = torch.softmax(-0.5 * ((level - centres[..., None]) / widths[..., None]) ** 2, -1)
    weights = torch.tensor([0.5, 0.3, 0.2], dtype=torch.float64)
    return torch.einsum("k,ki,kj->ij", weights, hills[:, 0], hills[:, 1])


def draw(table: Tensor, n: int, generator: torch.Generator) -> Tensor:
    """n pairs of whole numbers, (n, 2)."""
    at = torch.multinomial(table.flatten(), n, replacement=True, generator=generator)
    return torch.stack([at // SIDE, at % SIDE], 1).float()


def hears(sde: SDE) -> Callable[[Tensor], Tensor]:
    """What the MLPs hear: log of the noise over the picture."""
    return lambda t: torch.log(sde.std(t) / sde.scale(t))


def learn(row: Row, table: Tensor, seed: int, cfg: TrainConfig) -> NetScore:
    """One MLP, trained on fresh points with fresh noise."""
    generator = torch.Generator().manual_seed(seed)
    score = net_score(MLP(2, **MLP_SIZE, generator=generator), row.sde, label=hears(row.sde))
    state = new_state(score, cfg, generator=generator)
    how: dict[str, Any] = {"weight": row.weight}
    if row.weight == "likelihood":
        how |= {"sampling": "importance", "t_min": IMPORTANCE_FROM}

    def points() -> Iterator[Tensor]:
        while True:
            yield dequantise(draw(table, BATCH, generator), levels=SIDE, data_range=row.data_range, generator=generator)

    def loss(score: Any, x0: Tensor, gen: torch.Generator | None) -> Tensor:
        return dsm(row.sde, score, x0, generator=gen, **how)

    for _ in train(state, loss, points(), cfg):
        pass
    state.ema.copy_to(state.net)
    return score.eval().requires_grad_(False)


def judge_cells(row: Row, score: ScoreFn, table: Tensor, n: int) -> tuple[Tensor, int]:
    """Bits a dimension of n points less those of the law itself, an item at a time; the evaluations."""
    generator = torch.Generator().manual_seed(99)  # the same points and noise for all
    k = draw(table, n, generator)
    y = dequantise(k, levels=SIDE, data_range=row.data_range, generator=generator)
    found = log_likelihood(row.sde, score, y, rtol=TOLERANCE, atol=TOLERANCE)
    own = -table[k[:, 0].long(), k[:, 1].long()].log() / (2 * math.log(2))
    return bits_per_dim(found.log_prob.double(), 2, levels=SIDE, data_range=row.data_range) - own, found.nfe


def judge_digits(
    sde: SDE,
    score: ScoreFn,
    k: Tensor,
    data_range: tuple[float, float],
    *,
    t_min: float = 1e-5,
    tolerance: float = TOLERANCE,
) -> tuple[Tensor, int]:
    """Bits a dimension of every digit, and the most evaluations of a batch of 100. Noise and signs are the same for all."""
    generator = torch.Generator().manual_seed(98)
    y = dequantise(k, levels=LEVELS, data_range=data_range, generator=generator)
    v = probes(y, 1, generator=generator)[0]
    bits, nfe = [], 0
    for part, signs in zip(y.split(100), v.split(100), strict=True):
        found = log_likelihood(sde, score, part, probe=signs, t_min=t_min, rtol=tolerance, atol=tolerance)
        bits.append(bits_per_dim(found.log_prob.double(), k[0].numel(), levels=LEVELS, data_range=data_range))
        nfe = max(nfe, found.nfe)
    return torch.cat(bits), nfe


def networks() -> dict[str, tuple[SDE, NetScore, tuple[float, float]]]:
    """The five networks trained on dequantised digits, and "integers", the one trained on bare levels."""
    record, found = recorded.read("ch11_digits"), {}
    for key in NETS:
        about = record.data[key]
        sde = noising(about)
        score = net_score(record.load(architecture(about)(**about["net"]), key), sde)
        found[key] = (sde, score.eval().requires_grad_(False), tuple(about["data_range"]))
    bare = recorded.read("digits_nets")
    score = net_score(bare.load(ddpmpp(**bare.data["vp"]["net"]), "vp"), VP())
    return found | {"integers": (VP(), score.eval().requires_grad_(False), (-1.0, 1.0))}


def main(arguments: list[str] | None = None) -> int:
    """Train on the cells, judge cells and digits, write the record."""
    quick, where = recorded.options(__doc__, arguments)
    torch.set_num_threads(1)
    started, busy = time.time(), time.process_time()
    cfg = replace(RUN, steps=4, log_every=2) if quick else RUN
    n, seeds, many, few = (20, SEEDS[:2], 3, 2) if quick else (JUDGED, SEEDS, 300, 60)
    t_mins, tolerances, usual = (T_MINS[-1:], [0.1], 0.1) if quick else (T_MINS, TOLERANCES, TOLERANCE)

    table = cells()
    entropy = float(-(table * table.log()).sum()) / (2 * math.log(2))
    found: dict[str, Any] = {"cells": {"entropy": entropy, "rows": {}}, "digits": {}, "t_min": {}, "tolerance": {}}
    kept: dict[str, torch.nn.Module] = {}
    for key, row in ROWS.items():
        runs = []
        for seed in seeds:
            score = learn(row, table, seed, cfg)
            excess, nfe = judge_cells(row, score, table, n)
            runs.append({"excess": float(excess.mean()), "stderr": float(excess.std()) / math.sqrt(n), "nfe": nfe})
            if seed == seeds[0] and row.weight == "variance":
                kept[key] = cast(torch.nn.Module, score.net)
        found["cells"]["rows"][key] = runs
        print(
            f"cells {key}: {[round(run['excess'], 4) for run in runs]}, {time.process_time() - busy:.0f} s", flush=True
        )

    k = data.digits(data_range=(0.0, 16.0), split="test").images[:many]
    for key, (sde, score, data_range) in networks().items():
        bits, nfe = judge_digits(sde, score, k, data_range, tolerance=usual)
        found["digits"][key] = {"bits": bits.tolist(), "nfe": nfe}
        print(
            f"digits {key}: {float(bits.mean()):.4f}, {nfe} evaluations, {time.process_time() - busy:.0f} s", flush=True
        )
        if key in ("vp", "integers"):
            found["t_min"][key] = [
                judge_digits(sde, score, k[:few], data_range, t_min=t, tolerance=usual)[0].tolist() for t in t_mins
            ]
        if key == "vp":
            found["tolerance"][key] = [
                judge_digits(sde, score, k[:few], data_range, tolerance=tolerance)[0].tolist()
                for tolerance in tolerances
            ]

    path = recorded.write(
        NAME,
        found,
        script=f"tools/recorded/{NAME}.py",
        config={
            "batch": BATCH,
            "mlp": MLP_SIZE,
            "judged": n,
            "digits": many,
            "tolerance": TOLERANCE,
            "train": vars(cfg),
            "core_minutes": round((time.process_time() - busy) / 60, 1),
        },
        seeds=[*seeds, 98, 99],
        started=started,
        weights=kept,
        where=where,
    )
    print(f"wrote {path}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
