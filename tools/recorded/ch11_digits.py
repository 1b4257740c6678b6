"""Five small U-Nets on dequantised digits, the learned scores of chapter 11's table 2.

A digit's pixel is one of the 17 levels k = 0..16. Whenever a digit is shown it becomes (k + u)/17 with fresh uniform noise u,
scaled to [-1, 1] for VP and sub-VP and left in [0, 1] for VE, so that there is a density to learn. The networks are the small
DDPM++ (VP, sub-VP) and NCSN++ (VE) of ``digits_nets``. VP and sub-VP are trained twice: with the variance weights of eq. 7, as
the paper's networks were, and with the likelihood weights g^2, whose times are drawn by importance, from 0.001 on: earlier ones,
at which the noise is far smaller than a level, would take half of the draws. For VE g^2 is a constant times std^2 and both are
the same loss, so that one network stands for both. Trained on the 1,497 training digits; stored are the averaged weights. To
load one::

    record = recorded.read("ch11_digits")
    about = record.data["subvp_likelihood"]
    score = net_score(record.load(ddpmpp(**about["net"]), "subvp_likelihood"), SubVP()).eval()

    python tools/recorded/ch11_digits.py              about thirteen minutes of one core
    python tools/recorded/ch11_digits.py --quick --where DIR
"""

import sys
import time
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from sdelib import VE, VP, SubVP, data, dsm, net_score, recorded
from sdelib.models import ddpmpp, ncsnpp
from sdelib.sde import SDE
from sdelib.train import TrainConfig, new_state, train

NAME = "ch11_digits"
LEVELS = 17
SMALL: dict[str, Any] = {
    "image_size": 8,
    "in_channels": 1,
    "channels": 16,
    "multipliers": [1, 2],
    "blocks": 1,
    "attention_at": [],  # the lowest level, 4 x 4, has one all the same
    "dropout": 0.0,
}
NETS = {  # key: (SDE, weights of the loss, seed)
    "vp": ("vp", "variance", 110),
    "subvp": ("subvp", "variance", 111),
    "ve": ("ve", "variance", 112),
    "vp_likelihood": ("vp", "likelihood", 113),
    "subvp_likelihood": ("subvp", "likelihood", 114),
}
RUN = TrainConfig(steps=1000, lr=2e-3, warmup=100, ema_decay=0.995, log_every=100)
BATCH = 128
IMPORTANCE_FROM = 1e-3


def noising(about: dict[str, Any]) -> SDE:
    """The SDE of a network, from what the record says about it."""
    if about["sde"] == "ve":
        return VE(sigma_max=about["sigma_max"])
    return VP() if about["sde"] == "vp" else SubVP()


def architecture(about: dict[str, Any]) -> Any:
    """The function that makes the network."""
    return ncsnpp if about["sde"] == "ve" else ddpmpp


def settings() -> dict[str, dict[str, Any]]:
    """What is told to whoever loads the networks."""
    flat = data.digits(split="train").images.flatten(1)
    farthest = round(
        float(torch.cdist(flat, flat).max()), 2
    )  # the largest distance between two digits, as the paper chooses it
    told = {}
    for key, (sde, weight, _) in NETS.items():
        if sde == "ve":
            told[key] = {"net": SMALL | {"fourier_scale": 1.0}, "data_range": [0.0, 1.0], "sigma_max": farthest}
        else:
            told[key] = {"net": dict(SMALL), "data_range": [-1.0, 1.0]}
        told[key] |= {"sde": sde, "weight": weight, "levels": LEVELS}
    return told


def dequantised(
    levels: Iterator[Tensor], data_range: tuple[float, float], generator: torch.Generator
) -> Iterator[Tensor]:
    """Batches of whole numbers, with fresh noise on every one of them: (k + u)/17, scaled."""
    low, high = data_range
    for k in levels:
        yield low + (high - low) * (k + torch.rand(k.shape, generator=generator)) / LEVELS


def main(arguments: list[str] | None = None) -> int:
    """Train all five and write the record."""
    quick, where = recorded.options(__doc__, arguments)
    torch.set_num_threads(1)
    started, busy = time.time(), time.process_time()
    cfg = replace(RUN, steps=4, log_every=2) if quick else RUN
    about, nets = settings(), {}
    digits = data.digits(data_range=(0.0, 16.0), split="train").images
    for key, (_, weight, seed) in NETS.items():
        sde, told = noising(about[key]), about[key]
        generator = torch.Generator().manual_seed(seed)
        net = architecture(told)(**told["net"], generator=generator)
        state = new_state(net_score(net, sde), cfg, generator=generator)
        how: dict[str, Any] = {"weight": weight}
        if weight == "likelihood":
            how |= {"sampling": "importance", "t_min": IMPORTANCE_FROM}

        def loss(
            score: Any, x0: Tensor, gen: torch.Generator | None, sde: SDE = sde, how: dict[str, Any] = how
        ) -> Tensor:
            return dsm(sde, score, x0, generator=gen, **how)

        low, high = told["data_range"]
        batches = dequantised(data.batches(digits, BATCH, generator=generator), (low, high), generator)
        told["loss"] = []
        for m in train(state, loss, batches, cfg):
            told["loss"].append([m.step, m.loss / digits[0].numel()])
        state.ema.copy_to(state.net)
        nets[key] = net.eval()
        print(f"{key}: loss a pixel {told['loss'][-1][1]:.4f}, {time.process_time() - busy:.0f} s", flush=True)

    path = recorded.write(
        NAME,
        about,
        script=f"tools/recorded/{NAME}.py",
        config={
            "batch": BATCH,
            "importance_from": IMPORTANCE_FROM,
            "train": vars(cfg),
            "core_minutes": round((time.process_time() - busy) / 60, 1),
        },
        seeds=[seed for _, _, seed in NETS.values()],
        started=started,
        weights=nets,
        where=where,
    )
    print(f"wrote {path}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
