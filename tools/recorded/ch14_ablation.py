"""Chapter 14's ablation: a small U-Net on 8 x 8 digits, one ingredient of section 4.4 at a time, and all together.

python tools/recorded/ch14_ablation.py                     writes book/recorded/ch14_ablation.json and two networks
python tools/recorded/ch14_ablation.py --quick --where DIR  a few steps of everything, for the tests

Every network has the same width, sees the same batches, times and noises in the same order, and makes the same number of
steps; three seeds change all of these together with the initial weights. What is recorded is the denoising loss a pixel on the
300 digits kept aside, in four bands of t, with one set of times and noises for all networks. VE runs on [0, 1] with Fourier
features of log sigma, VP on [-1, 1] with sinusoidal features of 999 t, as the authors' networks do.
"""

import statistics
import sys
import time
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from sdelib import SDE, VE, VP, Gaussian, NetScore, TrainConfig, data, dsm, net_score, new_state, recorded, train
from sdelib.models import UNet

NAME = "ch14_ablation"
SEEDS = [0, 1, 2]
BANDS = 4
DRAWS = 4  # times and noises an image and band
T_MIN = 1e-3
BATCH = 32
FIR = (1, 3, 3, 1)
BASE: dict[str, Any] = {
    "image_size": 8,
    "in_channels": 1,
    "channels": 8,
    "multipliers": (1, 2, 2),
    "blocks": 1,
    "attention_at": (4,),
    "dropout": 0.0,
    "block": "ddpm",
    "rescale": False,
}
INGREDIENTS: dict[str, dict[str, Any]] = {
    "fir": {"fir": FIR},
    "rescale": {"rescale": True},
    "biggan": {"block": "biggan"},
    "blocks": {"blocks": 2},
    "input": {"progressive_in": "residual"},
}
PLUS = INGREDIENTS["rescale"] | INGREDIENTS["biggan"] | INGREDIENTS["blocks"]  # DDPM++'s three
ALL = PLUS | INGREDIENTS["fir"] | INGREDIENTS["input"]  # NCSN++'s five
ROWS: dict[str, dict[str, dict[str, Any]]] = {
    "ve": {"base": {}} | INGREDIENTS | {"all": ALL, "gentle": {"fourier_scale": 1.0}},
    "vp": {"base": {}, "plus": PLUS, "all": ALL},
}
RUN = TrainConfig(steps=400, lr=4e-3, warmup=100, ema_decay=0.99, log_every=10)
KEPT = ("base", "all")  # VE networks of the first seed whose weights are stored


class Setting(NamedTuple):
    """One noising with the digits in its range and the time features of its networks."""

    sde: SDE
    images: Tensor
    unseen: Tensor
    time: str


def settings() -> dict[str, Setting]:
    """VE with sigma_max at the digits' largest distance, and VP."""
    made = {}
    for name, low, features in (("ve", 0.0, "fourier"), ("vp", -1.0, "positional")):
        images, unseen = (
            data.digits(data_range=(low, 1.0), split=split, dtype=torch.float32).images for split in ("train", "test")
        )
        farthest = torch.cdist(images.flatten(1), images.flatten(1)).max()
        sde: SDE = VE(sigma_max=round(float(farthest), 2)) if name == "ve" else VP()
        made[name] = Setting(sde, images, unseen, features)
    return made


def network(setting: Setting, changes: dict[str, Any], seed: int) -> NetScore:
    """A score around a fresh network, scaled as the authors scale theirs."""
    generator = torch.Generator().manual_seed(seed)
    net = UNet(**BASE | {"time": setting.time} | changes, generator=generator)
    centre = (lambda x, t: 2 * x - 1) if isinstance(setting.sde, VE) else None
    return net_score(net, setting.sde, inp=centre)


def trained(setting: Setting, score: NetScore, seed: int, cfg: TrainConfig) -> tuple[nn.Module, list[float]]:
    """Train; return the score with its averaged weights, and the mean loss a pixel of every ``log_every`` steps."""
    generator = torch.Generator().manual_seed(100 + seed)
    loader = data.batches(setting.images, BATCH, generator=torch.Generator().manual_seed(200 + seed))

    def loss(s: nn.Module, x0: Tensor, g: torch.Generator | None) -> Tensor:
        return dsm(setting.sde, s, x0, t_min=T_MIN, generator=g) / 64

    state = new_state(score, cfg, generator=generator)
    curve = [metrics.loss for metrics in train(state, loss, loader, cfg)]
    state.ema.copy_to(score)
    return score.eval(), curve


def common(setting: Setting, draws: int = DRAWS) -> tuple[Tensor, Tensor]:
    """One set of times (bands, images x draws), spread evenly over each band, and of noises, for every network."""
    generator = torch.Generator().manual_seed(14)
    n = len(setting.unseen) * draws
    edges = torch.linspace(T_MIN, 1.0, BANDS + 1)
    u = (torch.randperm(n, generator=generator) + torch.rand(n, generator=generator)) / n
    times = edges[:-1, None] + (edges[1:] - edges[:-1])[:, None] * u
    return times, torch.randn((BANDS, n, *setting.unseen.shape[1:]), generator=generator)


@torch.no_grad()
def held_out(setting: Setting, score: Any, draws: int = DRAWS) -> list[float]:
    """The denoising loss a pixel of each band, on unseen digits with the common times and noises."""
    times, noises = common(setting, draws)
    x0 = setting.unseen.repeat(draws, 1, 1, 1)
    return [
        float((dsm(setting.sde, score, x0, t=t, noise=noise) / 64).mean())
        for t, noise in zip(times, noises, strict=True)
    ]


def gaussian(setting: Setting) -> Any:
    """The score of the normal law with the training digits' mean and covariance: the best that is linear in x."""
    flat = setting.images.flatten(1).double()
    law = Gaussian(flat.mean(0), flat.T.cov() + 1e-6 * torch.eye(64, dtype=torch.float64))
    values, axes = torch.linalg.eigh(law.cov)

    def score(x: Tensor, t: Tensor) -> Tensor:
        scale, std = setting.sde.scale(t.double())[:, None], setting.sde.std(t.double())[:, None]
        along = (x.flatten(1).double() - scale * law.mean) @ axes
        return (-(along / (scale**2 * values + std**2)) @ axes.T).reshape(x.shape).to(x)

    return score


def main(arguments: list[str] | None = None) -> int:
    """Train and measure everything, and write the record."""
    args = recorded.options(__doc__, arguments)
    steps, seeds, draws = (2, SEEDS[:1], 1) if args.quick else (RUN.steps, SEEDS, DRAWS)
    cfg = TrainConfig(**vars(RUN) | {"steps": steps, "log_every": min(steps, RUN.log_every)})

    torch.set_num_threads(1)
    started, busy = time.time(), time.process_time()
    results: dict[str, Any] = {}
    kept: dict[str, nn.Module] = {}
    for name, setting in settings().items():
        rows = {row: {"parameters": 0, "held_out": [], "curves": []} for row in ROWS[name]}
        for seed in seeds:
            for row, changes in ROWS[name].items():
                score = network(setting, changes, seed)
                done, curve = trained(setting, score, seed, cfg)
                found = held_out(setting, done, draws)
                entry: dict[str, Any] = rows[row]
                assert isinstance(score.net, nn.Module)
                entry["parameters"] = sum(p.numel() for p in score.net.parameters())
                entry["held_out"].append(found)
                entry["curves"].append(curve)
                if name == "ve" and seed == seeds[0] and row in KEPT:
                    kept[row] = score.net
                print(
                    f"{name} {row} seed {seed}: {statistics.mean(found):.4f}, {time.process_time() - busy:.0f} s",
                    flush=True,
                )
        results[name] = {"rows": rows, "gaussian": held_out(setting, gaussian(setting), draws)}
        results[name]["sigma_max"] = getattr(setting.sde, "sigma_max", None)
    config = {"base": BASE, "rows": ROWS, "train": vars(cfg), "batch": BATCH, "t_min": T_MIN, "draws": draws}
    config["core_minutes"] = round((time.process_time() - busy) / 60, 1)
    path = recorded.write(
        NAME,
        results,
        script=f"tools/recorded/{NAME}.py",
        config=config,
        seeds=seeds,
        started=started,
        weights=kept,
        where=args.where,
    )
    print(f"wrote {path}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
