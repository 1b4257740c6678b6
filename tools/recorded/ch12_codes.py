"""Four networks that learned the score of the digits apart from each other, and how well their codes agree: chapter 12.

Two architectures, two seeds each, all for VP on the 1,497 training digits in [-1, 1]: the small DDPM++ of ``digits_nets``
(seed 91, recorded there) and a second one (seed 121), and two transformers (seeds 122 and 123), which cut a picture into sixteen
patches and know neither convolution nor skip connections. Stored are the averaged weights of the new three, and a table::

    pairs     each pair's correlation of codes (unseen digits, diffused to t_min with the same noise); the same for what is left
              when the code by the normal law with the digits' mean and covariance is subtracted from both; root mean square
              differences of codes and of scores; how well one network reads what another one wrote
    course    the same between young networks, at steps of their training, and the finished network of ``digits_nets``
    normal    the networks' codes against those by the normal law

    python tools/recorded/ch12_codes.py               about fifteen minutes of one core
    python tools/recorded/ch12_codes.py --quick --where DIR
"""

import sys
import time
from dataclasses import replace
from functools import partial
from itertools import combinations
from typing import Any

import torch
from torch import Tensor, nn

from sdelib import VP, Gaussian, bcast, data, dsm, flow, net_score, recorded
from sdelib.models import ddpmpp
from sdelib.models.mlp import FourierFeatures
from sdelib.train import TrainConfig, new_state, train

NAME = "ch12_codes"
T_MIN = 1e-3
TOLERANCE = 1e-4
TIMES = [0.01, 0.02, 0.05, 0.1, 0.2, 0.3, 0.4, 0.5, 0.7, 0.9]  # at which scores are compared
FIRST = 40  # the digits that the chapter encodes again
STEPS = {"unet": 2000, "patches": 3500}
KEPT = [60, 120, 240, 500, 1000]  # steps after which a young network is looked at
SEEDS = {"unet 2": 121, "patches 1": 122, "patches 2": 123}
BATCH = 128
RUN = TrainConfig(
    steps=STEPS["unet"], lr=2e-3, warmup=100, ema_decay=0.995, log_every=20
)  # digits_nets' but for log_every
PATCHES: dict[str, Any] = {"width": 64, "depth": 3, "heads": 4}


class Patches(nn.Module):
    """Sixteen patches of 2 x 2 pixels that look at each other: a small transformer. No convolution, no skip connection.

    Initial weights come from torch's global generator.
    """

    def __init__(self, width: int = 64, depth: int = 3, heads: int = 4) -> None:
        super().__init__()
        self.embed = FourierFeatures(64, scale=0.3)
        self.hear = nn.Linear(64, width)
        self.place = nn.Parameter(0.5 * torch.randn(16, width))
        self.read, self.write = nn.Linear(4, width), nn.Linear(width, 4)
        block = partial(nn.TransformerEncoderLayer, dropout=0.0, activation="gelu", batch_first=True, norm_first=True)
        self.blocks = nn.ModuleList(block(width, heads, 4 * width) for _ in range(depth))
        self.norm = nn.LayerNorm(width)

    def forward(self, x: Tensor, label: Tensor) -> Tensor:
        """The network's output, (batch, 1, 8, 8)."""
        h = self.read(nn.functional.unfold(x, 2, stride=2).mT) + self.place
        time = self.hear(self.embed(label))[:, None]
        for block in self.blocks:
            h = block(h + time)
        return nn.functional.fold(self.write(self.norm(h)).mT, (8, 8), 2, stride=2)


def network(kind: str, seed: int = 0) -> nn.Module:
    """A new network, wrapped as a score; ``kind`` is "unet" or "patches"."""
    if kind == "unet":
        settings = recorded.read("digits_nets").data["vp"]["net"]
        return net_score(ddpmpp(**settings, generator=torch.Generator().manual_seed(seed)), VP())
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return net_score(Patches(**PATCHES), VP())


def encode(score: Any, x: Tensor) -> Tensor:
    return flow(VP(), score, x, T_MIN, 1.0, rtol=TOLERANCE, atol=TOLERANCE).x


def decode(score: Any, z: Tensor) -> Tensor:
    return flow(VP(), score, z, 1.0, T_MIN, rtol=TOLERANCE, atol=TOLERANCE).x


def slightly_noisy() -> Tensor:
    """The 300 unseen digits, diffused to t_min: what the law at t_min looks like."""
    x0 = data.digits(data_range=(-1, 1), split="test").images
    z = torch.randn(x0.shape, generator=torch.Generator().manual_seed(124))
    t = torch.full((len(x0),), T_MIN)
    return VP().perturb(x0, t, z)


def normal_codes(x: Tensor) -> Tensor:
    """The code by the exact flow of the normal law with the training digits' mean and covariance: an affine map."""
    flat = data.digits(data_range=(-1, 1), split="train").images.flatten(1).double()
    variances, axes = torch.linalg.eigh(torch.cov(flat.T))
    vp, twin = VP(), Gaussian(flat.mean(0), torch.cov(flat.T))
    now, end = twin.at(vp, T_MIN), twin.at(vp, 1.0)
    width = lambda t: (float(vp.scale(t)) ** 2 * variances.clamp(min=0) + float(vp.std(t)) ** 2).sqrt()  # noqa: E731
    turned = (x.flatten(1).double() - now.mean) @ axes * (width(1.0) / width(T_MIN))
    return (turned @ axes.T + end.mean).to(x.dtype).view(x.shape)


def rms(x: Tensor) -> float:
    return float(x.double().square().mean().sqrt())


def centred(codes: Tensor) -> Tensor:
    flat = codes.flatten(1).double()
    return flat - flat.mean(0)


def correlation(a: Tensor, b: Tensor) -> float:
    """Of all numbers of all codes, each coordinate's mean over the items subtracted."""
    a, b = centred(a), centred(b)
    return float((a * b).sum() / (a.square().sum() * b.square().sum()).sqrt())


def scatter(a: Tensor, b: Tensor, draws: int = 200) -> float:
    """The correlation's standard error, by drawing the items anew with replacement."""
    generator = torch.Generator().manual_seed(126)
    picks = torch.randint(len(a), (draws, len(a)), generator=generator)
    return float(torch.tensor([correlation(a[pick], b[pick]) for pick in picks], dtype=torch.float64).std())


def by_coordinate(a: Tensor, b: Tensor) -> list[float]:
    """The correlation of each of an item's numbers."""
    a, b = centred(a), centred(b)
    return [float(r) for r in (a * b).sum(0) / (a.square().sum(0) * b.square().sum(0)).sqrt()]


def on_axes(codes: Tensor) -> Tensor:
    """The codes' coordinates on the principal axes of the training digits, the axis of most variance first."""
    flat = data.digits(data_range=(-1, 1), split="train").images.flatten(1).double()
    return codes.flatten(1).double() @ torch.linalg.eigh(torch.cov(flat.T))[1].flip(1)


def score_gap(one: Any, other: Any, x0: Tensor) -> list[float]:
    """Root mean square of std(t) times the difference of two scores, a pixel, on diffused unseen digits, at each time."""
    vp, gaps = VP(), []
    noise = torch.randn(x0.shape, generator=torch.Generator().manual_seed(125))
    for time_ in TIMES:
        t = torch.full((len(x0),), time_)
        x = vp.perturb(x0, t, noise)
        with torch.no_grad():
            gaps.append(rms(bcast(vp.std(t), x) * (one(x, t) - other(x, t))))
    return gaps


def compare(a: Tensor, b: Tensor, twin: Tensor) -> dict[str, float]:
    """What is asked of two lists of codes of the same digits."""
    return {
        "correlation": correlation(a, b),
        "beyond": correlation(a - twin, b - twin),
        "strangers": correlation(a, b.roll(1, 0)),
        "difference": rms(a - b),
    }


def main(arguments: list[str] | None = None) -> int:
    """Train three, encode with four, and write the record."""
    args = recorded.options(__doc__, arguments)
    torch.set_num_threads(1)
    started, busy = time.time(), time.process_time()
    x = slightly_noisy()[: 8 if args.quick else None]
    x0 = data.digits(data_range=(-1, 1), split="test").images[: len(x)]
    twin = normal_codes(x)
    seen = data.digits(data_range=(-1, 1), split="train").images

    first = recorded.read("digits_nets")
    scores: dict[str, Any] = {"unet 1": net_score(first.load(ddpmpp(**first.data["vp"]["net"]), "vp"), VP()).eval()}
    codes = {"unet 1": encode(scores["unet 1"], x)}
    course: dict[str, list[dict[str, Any]]] = {}
    curves: dict[str, list[list[float]]] = {}

    def loss(score: Any, batch: Tensor, generator: torch.Generator | None) -> Tensor:
        return dsm(VP(), score, batch, generator=generator)

    def look(name: str, step: int, score: Any) -> None:
        """One line of the course: a young network against the finished one of digits_nets, the first forty digits."""
        score.eval()
        there = compare(encode(score, x[:FIRST]), codes["unet 1"][:FIRST], twin[:FIRST])
        course[name].append({"step": step, "scores": score_gap(score, scores["unet 1"], x0), **there})
        score.train()

    for name, seed in SEEDS.items():
        kind = name.split()[0]
        cfg = replace(RUN, steps=4, log_every=1) if args.quick else replace(RUN, steps=STEPS[kind])
        generator = torch.Generator().manual_seed(seed)
        state = new_state(network(kind, seed), cfg, generator=generator)
        course[name], curves[name] = [], []
        kept = [2] if args.quick else KEPT
        for m in train(state, loss, data.batches(seen, BATCH, generator=generator), cfg):
            if m.step in kept and name != "patches 2":
                with state.ema.swapped(state.net):
                    look(name, m.step, state.net)
            curves[name].append([m.step, m.loss / seen[0].numel()])
            if m.step % 100 == 0:
                print(
                    f"{name} step {m.step}: loss a pixel {curves[name][-1][1]:.4f}, {time.process_time() - busy:.0f} s"
                )
        state.ema.copy_to(state.net)
        scores[name] = state.net.eval()
        codes[name] = encode(scores[name], x)
        if name != "patches 2":
            look(name, cfg.steps, state.net)
            state.net.eval()

    pairs = {}
    for one, other in combinations(scores, 2):
        back = decode(scores[other], codes[one][:FIRST])
        pairs[f"{one}, {other}"] = {
            "all": compare(codes[one], codes[other], twin),
            "first": compare(codes[one][:FIRST], codes[other][:FIRST], twin[:FIRST]),
            "stderr": scatter(codes[one], codes[other]),
            "by_pixel": by_coordinate(codes[one], codes[other]),
            "by_axis": by_coordinate(on_axes(codes[one]), on_axes(codes[other])),
            "scores": score_gap(scores[one], scores[other], x0),
            "read": [rms(b - a) for a, b in zip(x[:FIRST], back, strict=True)],
        }
        print(f"{one}, {other}: {pairs[f'{one}, {other}']['all']}", flush=True)
    normal = {name: compare(code, twin, 0 * twin) for name, code in codes.items()}
    table = {"times": TIMES, "pairs": pairs, "normal": normal, "course": course, "loss": curves, "net": dict(PATCHES)}
    minutes = round((time.process_time() - busy) / 60, 1)
    config = {
        "batch": BATCH, "train": vars(RUN), "steps": STEPS, "t_min": T_MIN, "tolerance": TOLERANCE, "digits": len(x),
        "first": FIRST, "core_minutes": minutes,
    }  # fmt: skip
    path = recorded.write(
        NAME,
        table,
        script=f"tools/recorded/{NAME}.py",
        config=config,
        seeds=[*SEEDS.values(), 124, 125, 126],
        started=started,
        weights={name.replace(" ", "_"): scores[name].net for name in SEEDS},
        where=args.where,
    )
    print(f"wrote {path}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
