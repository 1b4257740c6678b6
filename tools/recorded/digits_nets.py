"""Two small U-Nets on the 8 x 8 digits, one for VE and one for VP: the learned scores of chapters 9 to 13.

The VE network is NCSN++ in small (FIR, residual progressive input, Fourier features of log sigma), with sigma_max the largest
distance between two training digits, as the paper chooses it; the VP network is DDPM++ in small. Both learn with eq. 7 and
variance weights on the 1,497 training digits; stored are the averaged weights. To load one::

    record = recorded.read("digits_nets")
    ve = VE(sigma_max=record.data["ve"]["sigma_max"])                      # digits in [0, 1]
    ve_score = net_score(record.load(ncsnpp(**record.data["ve"]["net"]), "ve"), ve).eval()
    vp = VP()                                                               # digits in [-1, 1]
    vp_score = net_score(record.load(ddpmpp(**record.data["vp"]["net"]), "vp"), vp).eval()

    python tools/recorded/digits_nets.py              about ten minutes of one core
    python tools/recorded/digits_nets.py --quick --where DIR
"""

import sys
import time
from typing import Any

import torch
from torch import Tensor

from sdelib import VE, VP, data, dsm, net_score, recorded
from sdelib.models import ddpmpp, ncsnpp
from sdelib.sde import SDE
from sdelib.train import TrainConfig, new_state, train

NAME = "digits_nets"
SMALL: dict[str, Any] = {
    "image_size": 8,
    "in_channels": 1,
    "channels": 16,
    "multipliers": [1, 2],
    "blocks": 1,
    "attention_at": [],  # the lowest level, 4 x 4, has one all the same
    "dropout": 0.0,
}
SEEDS = {"ve": 90, "vp": 91}
RUN = TrainConfig(steps=2000, lr=2e-3, warmup=100, ema_decay=0.995, log_every=100)
BATCH = 128
LOOKED_AT = [0.02, 0.05, 0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 1.0]


def settings(images: Tensor) -> dict[str, dict[str, Any]]:
    """What is told to whoever loads the networks: the noising, the data's range, the network's arguments."""
    flat = images.flatten(1)
    # The authors' scale 16 is for log sigma from -4.6 to 3.9 and 1.3 million steps; with 2,000 a smoother embedding learns more.
    return {
        "ve": {
            "net": SMALL | {"fourier_scale": 1.0},
            "data_range": [0.0, 1.0],
            "sigma_max": round(float(torch.cdist(flat, flat).max()), 2),
        },
        "vp": {"net": dict(SMALL), "data_range": [-1.0, 1.0]},
    }


def held_out(noising: SDE, score: torch.nn.Module, images: Tensor) -> list[float]:
    """Denoising loss a pixel on digits that training has not seen, at the times looked at; the noise is the same for all."""
    noise = torch.randn(images.shape, generator=torch.Generator().manual_seed(92))
    with torch.no_grad():
        return [
            float(dsm(noising, score, images, t=torch.full((len(images),), t), noise=noise).mean()) / images[0].numel()
            for t in LOOKED_AT
        ]


def main(arguments: list[str] | None = None) -> int:
    """Train both and write the record."""
    args = recorded.options(__doc__, arguments)
    torch.set_num_threads(1)
    started, busy = time.time(), time.process_time()

    cfg = TrainConfig(**vars(RUN) | {"steps": 6, "log_every": 3}) if args.quick else RUN
    about = settings(data.digits(split="train").images)
    noisings: dict[str, SDE] = {"ve": VE(sigma_max=about["ve"]["sigma_max"]), "vp": VP()}
    weights: dict[str, torch.nn.Module] = {}
    for key, noising in noisings.items():
        low, high = about[key]["data_range"]
        seen, unseen = (data.digits(data_range=(low, high), split=split).images for split in ("train", "test"))
        generator = torch.Generator().manual_seed(SEEDS[key])
        make = ncsnpp if key == "ve" else ddpmpp
        net = make(**about[key]["net"], generator=generator)
        state = new_state(net_score(net, noising), cfg, generator=generator)

        def loss(score: Any, x0: Tensor, gen: torch.Generator | None, noising: SDE = noising) -> Tensor:
            return dsm(noising, score, x0, generator=gen)

        batches = data.batches(seen, BATCH, generator=generator)
        about[key]["loss"] = []
        for m in train(state, loss, batches, cfg):
            about[key]["loss"].append([m.step, m.loss / seen[0].numel()])
            print(
                f"{key} step {m.step}: loss a pixel {m.loss / seen[0].numel():.4f}, {time.process_time() - busy:.0f} s",
                flush=True,
            )
        state.ema.copy_to(state.net)
        state.net.eval()
        about[key]["held_out"] = {"times": LOOKED_AT, "loss": held_out(noising, state.net, unseen)}
        weights[key] = net

    config = {"batch": BATCH, "train": vars(cfg), "core_minutes": round((time.process_time() - busy) / 60, 1)}
    path = recorded.write(
        NAME,
        about,
        script=f"tools/recorded/{NAME}.py",
        config=config,
        seeds=list(SEEDS.values()),
        started=started,
        weights=weights,
        where=args.where,
    )
    print(f"wrote {path}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
