"""Chapter 13's networks and tables: digits of a chosen class, digits torn, blurred or without colour, and what was made of them.

python tools/recorded/ch13_control.py                      about fifteen minutes of one core
python tools/recorded/ch13_control.py --quick --where DIR  a few steps of everything, for the tests

Two networks are trained here: a classifier of noisy digits, and the score of tinted digits. The score of grey digits is that of
``digits_nets``, trained before anybody asked it anything. A tinted digit is white paper with coloured ink: even digits are blue,
odd ones orange in 70 and purple in 30 of 100 cases, so that whoever colours a grey digit well has to recognise it.

Four questions are then asked of held-out digits: which class (with four weights of the guidance), what stands in the lower half,
what are the 64 pixels behind 16 means, which tint. Draws are compared with the truth by the energy score, which the true
posterior minimises; by the squared error of their mean over what their own scatter promises, which is 1 for honest draws; and by
a judge, a support vector machine on clean training digits that no sampler has seen.
"""

import math
import sys
import time
from collections.abc import Callable
from typing import Any, NamedTuple

import torch
from torch import Tensor

from sdelib import (
    VP,
    ancestral,
    annealed_langevin,
    classifier_loss,
    classifier_score,
    data,
    dsm,
    grey_basis,
    guided,
    impose,
    linear_guidance,
    measured,
    mix,
    net_logits,
    net_score,
    observe,
    project,
    recorded,
    resample,
    simulate,
    then,
    time_grid,
)
from sdelib.exact import GaussianMixture
from sdelib.models import Classifier, ddpmpp
from sdelib.train import TrainConfig, new_state, train
from sdelib.types import Constraint, ScoreFn, Step

NAME = "ch13_control"
SEEDS = {"classifier": 130, "tinted": 131, "sampling": 132}
CLASSIFIER: dict[str, Any] = {
    "image_size": 8,
    "in_channels": 1,
    "channels": 16,
    "multipliers": [1, 2],
    "blocks": 1,
    "time": "positional",
    "time_channels": 32,
}
TINTED: dict[str, Any] = {
    "image_size": 8,
    "in_channels": 3,
    "channels": 16,
    "multipliers": [1, 2],
    "blocks": 1,
    "attention_at": [],
    "dropout": 0.0,
}
LEARN = TrainConfig(steps=1500, lr=2e-3, warmup=100, ema_decay=0.995, log_every=100)
TINTED_STEPS = 2500
BATCH = 128
LOOKED_AT = [0.02, 0.05, 0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 1.0]
WEIGHTS = [0.0, 1.0, 3.0, 8.0]
STEPS = 100  # of class guidance
BUDGET = 200  # forward passes of the score a draw, for the other questions; a backward one counts as two
T_MIN = 1e-3
SNR = 0.3  # of the corrector
NOISE = 0.02  # of the measurement, where a method needs one
DATA_STD = 0.6  # of a pixel, roughly
LATE = 0.5  # guidance by the network's derivative starts here: before, it is divided by a small scale, and so are its errors
VP_ = VP()

HUES = {"even": [(1.0, 210.0)], "odd": [(0.7, 30.0), (0.3, 300.0)]}  # (share, degrees)
HUE_STD = 8.0
INK, SATURATION = 0.55, 0.5


PAINTED = [2, 3, 4, 7, 8]  # the second held-out digit of each of these classes, under every mask


class Plan(NamedTuple):
    """How much of everything: all of it, or a few steps for the tests."""

    steps: int
    tinted_steps: int
    per_class: int
    digits: int
    draws: int
    budget: int


FULL = Plan(LEARN.steps, TINTED_STEPS, 20, 60, 6, BUDGET)
QUICK = Plan(4, 4, 2, 4, 2, 12)


# --- tinted digits ---


def chroma(degrees: Tensor) -> Tensor:
    """The unit vector of a hue, (..., 3): at right angles to grey; 0 is red, 120 green, 240 blue."""
    turn = torch.tensor([0.0, 120.0, 240.0])
    return math.sqrt(2 / 3) * torch.cos(torch.deg2rad(degrees[..., None] - turn))


def tinted(ink: Tensor, degrees: Tensor) -> Tensor:
    """Digits (n, 1, 8, 8) in [0, 1] with ink of the given hues, on white paper, in [-1, 1]."""
    colour = INK - SATURATION * chroma(degrees)
    return 1 - 2 * ink * colour[:, :, None, None]


def hues(labels: Tensor, generator: torch.Generator) -> Tensor:
    """A hue for each digit, drawn from the law of its parity."""
    first = torch.rand(len(labels), generator=generator)
    odd = torch.where(first < HUES["odd"][0][0], HUES["odd"][0][1], HUES["odd"][1][1])
    base = torch.where(labels % 2 == 0, torch.full_like(odd, HUES["even"][0][1]), odd)
    return base + HUE_STD * torch.randn(len(labels), generator=generator)


def read_tint(x: Tensor, ink: Tensor) -> tuple[Tensor, Tensor]:
    """The hue of a picture's summed chroma, in degrees, and its saturation over the right one."""
    seen = (
        x.flatten(2).sum(2) / 2
    )  # a pixel is grey + 2 ink 0.5 chroma, and both axes below are at right angles to grey
    axes = torch.stack([chroma(torch.tensor(0.0)), chroma(torch.tensor(90.0))])
    along = seen @ axes.T
    hue = torch.rad2deg(torch.atan2(along[:, 1], along[:, 0])) % 360
    return hue, along.norm(dim=1) / (SATURATION * ink.flatten(1).sum(1))


# --- networks ---


def learn(
    net: torch.nn.Module, loss: Callable[..., Tensor], batches: Any, steps: int, generator: torch.Generator, name: str
) -> list[list[float]]:
    """Train, put the averaged weights in, return the loss every hundred steps."""
    cfg = TrainConfig(**vars(LEARN) | {"steps": steps, "log_every": min(steps, LEARN.log_every)})
    state = new_state(net, cfg, generator=generator)
    curve = []
    for m in train(state, loss, batches, cfg):
        curve.append([m.step, m.loss])
        print(f"{name} step {m.step}: {m.loss:.4f}, {time.process_time():.0f} s", flush=True)
    state.ema.copy_to(net)
    net.eval()
    return curve


def at_times(classifier: Any, images: Tensor, labels: Tensor, noises: int) -> dict[str, list[float]]:
    """Cross-entropy in nats and share of right answers at the times looked at; the noises are the same for all times."""
    x0, y = images.repeat(noises, 1, 1, 1), labels.repeat(noises)
    noise = torch.randn(x0.shape, generator=torch.Generator().manual_seed(133))
    found: dict[str, list[float]] = {"cross_entropy": [], "right": []}
    with torch.no_grad():
        for one in LOOKED_AT:
            t = torch.full((len(x0),), one)
            logits = classifier(VP_.perturb(x0, t, noise), t)
            found["cross_entropy"].append(float(torch.nn.functional.cross_entropy(logits, y)))
            found["right"].append(float((logits.argmax(1) == y).double().mean()))
    return found


# --- questions ---

ROOT_MIX = 0.5 * torch.tensor([[1.0, 1, 1, 1], [1, -1, 1, -1], [1, 1, -1, -1], [1, -1, -1, 1]])
"""An orthonormal basis for the four pixels of a 2 x 2 block, twice their mean first."""


def block_basis() -> Tensor:
    """(64, 64), orthonormal: twice the means of the sixteen 2 x 2 blocks first, then what is left in the blocks."""
    pixels = torch.eye(64).reshape(64, 1, 8, 8)
    return mix(ROOT_MIX, torch.nn.functional.pixel_unshuffle(pixels, 2)).flatten(1).T


def masks() -> dict[str, Tensor]:
    """What may be known of a digit, each (1, 8, 8), 1 where it is known."""
    row, column = torch.meshgrid(torch.arange(8), torch.arange(8), indexing="ij")
    known = {
        "upper half": row < 4,
        "lower half": row >= 4,
        "left half": column < 4,
        "right half": column >= 4,
        "frame": (row < 2) | (row > 5) | (column < 2) | (column > 5),
        "every fourth": (row % 2 == 0) & (column % 2 == 0),
    }
    return {name: mask[None].float() for name, mask in known.items()}


def methods(score: ScoreFn, constraint: Constraint, A: Tensor, y: Tensor, budget: int) -> dict[str, tuple[Step, int]]:
    """Name to (step, number of steps), each with ``budget`` forward passes, or as many as it gets into them."""
    step, rest = ancestral(VP_, score), annealed_langevin(VP_, score, snr=SNR)
    few = max(2, budget // 4)
    term = linear_guidance(VP_, score, A, y, noise_std=NOISE, data_std=DATA_STD)
    pushed = guided(score, lambda x, t: term(x, t) if float(t[0]) <= LATE else torch.zeros_like(x))
    blunt = guided(score, measured(VP_, A, y, noise_std=NOISE))
    return {
        "replacement": (project(step, constraint), budget),
        "corrected": (then(project(rest, constraint), project(step, constraint)), budget // 2),
        "resampled": (resample(project(step, constraint), VP_, 4), few),
        "guided": (ancestral(VP_, pushed), few),
        "y(t)": (ancestral(VP_, blunt), budget),
    }


def run(step: Step, steps: int, shape: tuple[int, ...], seed: int, constraint: Constraint | None = None) -> Tensor:
    """Pictures in [-1, 1], the last step's mean."""
    generator = torch.Generator().manual_seed(seed)
    x = VP_.prior_sample(shape, generator=generator)
    if constraint is not None:
        x = impose(constraint, x, VP_.T, generator=generator)
    return simulate(step, x, time_grid(steps, t_min=T_MIN), generator=generator, denoise=True).x


# --- what they are worth ---


def judge() -> Any:
    """A support vector machine on the clean training digits."""
    from sklearn.svm import SVC

    seen = data.digits(split="train")
    return SVC(C=10.0).fit(seen.images.flatten(1).double().numpy(), seen.labels.numpy())


def said(judge_: Any, x: Tensor) -> Tensor:
    """What the judge takes pictures in [-1, 1] for."""
    return torch.from_numpy(judge_.predict(((x.flatten(1).double() + 1) / 2).numpy()))


def worth(draws: Tensor, truth: Tensor, labels: Tensor, judge_: Any) -> dict[str, float]:
    """Draws (n, K, ...) against truth (n, ...): energy score in grey levels of [0, 1], calibration, agreement."""
    n, k = draws.shape[:2]
    x, x0 = draws.reshape(n, k, -1).double() / 2, truth.reshape(n, 1, -1).double() / 2
    near = (x - x0).norm(dim=2).mean(1)
    among = torch.cdist(x, x).sum((1, 2)) / (k * (k - 1))
    score = near - among / 2
    error = ((x.mean(1) - x0[:, 0]) ** 2).sum()
    promised = (1 + 1 / k) * x.var(1).sum()
    right = said(judge_, draws.flatten(0, 1)).reshape(n, k) == labels[:, None]
    return {
        "energy_score": float(score.mean()),
        "energy_score_error": float(score.std() / math.sqrt(n)),
        "error_over_promise": float(error / promised),
        "right": float(right.double().mean()),
    }


def packed(x: Tensor) -> list[str]:
    """Pictures in [-1, 1] as bytes in hexadecimal, one string an item."""
    levels = ((x.clamp(-1.2, 1.2) + 1.2) / 2.4 * 255).round().to(torch.uint8)
    return [bytes(item.flatten().tolist()).hex() for item in levels]


def main(arguments: list[str] | None = None) -> int:
    """Train, ask, measure, and write the record."""
    args = recorded.options(__doc__, arguments)
    torch.set_num_threads(1)
    started, busy = time.time(), time.process_time()
    plan = QUICK if args.quick else FULL
    seen, unseen = (data.digits(data_range=(-1.0, 1.0), split=split) for split in ("train", "test"))
    results: dict[str, Any] = {"looked_at": LOOKED_AT, "hues": HUES}
    minutes = lambda: round((time.process_time() - busy) / 60, 2)  # noqa: E731

    g = torch.Generator().manual_seed(SEEDS["classifier"])
    classifier = Classifier(**CLASSIFIER, generator=g)
    logits = net_logits(classifier, VP_)
    loss = lambda net, pair, gen: classifier_loss(VP_, net, *pair, generator=gen)  # noqa: E731
    curve = learn(
        logits, loss, data.batches((seen.images, seen.labels), BATCH, generator=g), plan.steps, g, "classifier"
    )
    results["classifier"] = {
        "net": CLASSIFIER,
        "loss": curve,
        "train": at_times(logits, *seen, noises=1),
        "test": at_times(logits, *unseen, noises=4),
    }
    print("classifier", results["classifier"]["test"], minutes(), flush=True)

    g = torch.Generator().manual_seed(SEEDS["tinted"])
    colour_net = ddpmpp(**TINTED, generator=g)
    colour_score = net_score(colour_net, VP_)

    def fresh_tints() -> Any:
        for images, labels in data.batches((seen.images, seen.labels), BATCH, generator=g):
            yield tinted((images + 1) / 2, hues(labels, g))

    curve = learn(
        colour_score, lambda s, x0, gen: dsm(VP_, s, x0, generator=gen), fresh_tints(), plan.tinted_steps, g, "tinted"
    )
    results["tinted"] = {"net": TINTED, "loss": curve}
    print("tinted", minutes(), flush=True)

    nets = recorded.read("digits_nets")
    score = net_score(nets.load(ddpmpp(**nets.data["vp"]["net"]), "vp"), VP_).eval()
    judge_ = judge()
    seed = SEEDS["sampling"]

    classes: dict[str, Any] = {
        "weights": WEIGHTS,
        "steps": STEPS,
        "right": [],
        "right_each": [],
        "spread": [],
        "shown": [],
    }
    wanted = torch.arange(10).repeat_interleave(plan.per_class)
    steps = STEPS if not args.quick else 4
    for weight in WEIGHTS:
        term = classifier_score(logits, wanted)
        asked = guided(score, term, weight=weight) if weight else score
        x = run(ancestral(VP_, asked), steps, (len(wanted), 1, 8, 8), seed)
        right = (said(judge_, x) == wanted).double().reshape(10, -1).mean(1)
        flat = (x.flatten(1).double() / 2).reshape(10, plan.per_class, 64)
        spread = torch.cdist(flat, flat).sum((1, 2)) / (plan.per_class * (plan.per_class - 1))
        classes["right"].append(float(right.mean()))
        classes["right_each"].append(right.tolist())
        classes["spread"].append(spread.tolist())
        classes["shown"].append(packed(x.reshape(10, plan.per_class, 64)[:, :8].flatten(0, 1)))
        print("class", weight, float(right.mean()), float(spread.mean()), minutes(), flush=True)
    results["classes"] = classes

    truth, labels = unseen.images[: plan.digits], unseen.labels[: plan.digits]
    many = truth.repeat_interleave(plan.draws, 0)
    upper, basis = masks()["upper half"], block_basis()
    first = (torch.arange(64) < 16).float().reshape(1, 8, 8)
    questions = {
        "lower half": (observe(VP_, many, upper), torch.eye(64)[upper.flatten() > 0]),
        "means": (observe(VP_, many, first, basis=basis), basis[:16]),
    }
    results["questions"] = {}
    for question, (constraint, matrix) in questions.items():
        table: dict[str, Any] = {}
        y = many.flatten(1) @ matrix.T
        for name, (step, steps) in methods(score, constraint, matrix, y, plan.budget).items():
            begun = time.process_time()
            free = name in ("guided", "y(t)")
            x = run(step, steps, tuple(many.shape), seed, None if free else constraint)
            draws = x.reshape(plan.digits, plan.draws, 1, 8, 8)
            table[name] = worth(draws, truth, labels, judge_) | {
                "steps": steps,
                "seconds": round(time.process_time() - begun, 1),
                "off": float((x.flatten(1) @ matrix.T - y).abs().mean()),
                "shown": packed(draws[:12].flatten(0, 1)),
            }
            print(question, name, {k: v for k, v in table[name].items() if k != "shown"}, minutes(), flush=True)
        draws = by_mixture(seen, matrix, truth, plan.draws, seed)
        table["mixture"] = worth(draws, truth, labels, judge_)
        print(question, "mixture", table["mixture"], flush=True)
        results["questions"][question] = table

    chosen = torch.tensor([int((unseen.labels == k).nonzero()[1]) for k in PAINTED])
    torn = unseen.images[chosen].repeat_interleave(plan.draws, 0)
    painter: dict[str, Any] = {"digits": chosen.tolist(), "draws": plan.draws, "shown": {}}
    for name, mask in masks().items():
        constraint = observe(VP_, torn, mask)
        walk = resample(project(ancestral(VP_, score), constraint), VP_, 4)
        painter["shown"][name] = packed(run(walk, max(2, plan.budget // 4), tuple(torn.shape), seed, constraint))
    results["painter"] = painter
    print("painter", minutes(), flush=True)

    g = torch.Generator().manual_seed(seed)
    ink = (truth + 1) / 2
    x0 = tinted(ink, hues(labels, g)).repeat_interleave(plan.draws, 0)
    grey = torch.tensor([1, 0, 0])[:, None, None]
    constraint = observe(VP_, x0, grey, basis=grey_basis())
    step = ancestral(VP_, colour_score)
    colour: dict[str, Any] = {}
    ways: dict[str, tuple[Step, int]] = {
        "replacement": (project(step, constraint), plan.budget),
        "resampled": (resample(project(step, constraint), VP_, 4), max(2, plan.budget // 4)),
    }
    for name, (way, steps) in ways.items():
        x = run(way, steps, tuple(x0.shape), seed, constraint)
        hue, saturation = read_tint(x, ink.repeat_interleave(plan.draws, 0))
        colour[name] = {
            "hue": hue.tolist(),
            "saturation": saturation.tolist(),
            "off": float(((x - x0).sum(1)).abs().max()),
            "shown": packed(x.reshape(plan.digits, plan.draws, 3, 8, 8)[:12].flatten(0, 1)),
        }
        print("colour", name, float(saturation.mean()), colour[name]["off"], minutes(), flush=True)
    results["colour"] = colour | {"labels": labels.tolist(), "draws": plan.draws}

    config = {"plan": plan._asdict(), "batch": BATCH, "train": vars(LEARN), "noise": NOISE, "core_minutes": minutes()}
    path = recorded.write(
        NAME,
        results,
        script=f"tools/recorded/{NAME}.py",
        config=config,
        seeds=list(SEEDS.values()),
        started=started,
        weights={"classifier": classifier, "tinted": colour_net},
        where=args.where,
    )
    print(f"wrote {path}")
    return 0


def class_mixture(images: Tensor, labels: Tensor, width: float = 0.1) -> GaussianMixture:
    """A normal law for each digit, with its mean and covariance, and a little noise: known in closed form."""
    flat = images.flatten(1).double()
    parts = [flat[labels == k] for k in range(10)]
    return GaussianMixture(
        torch.bincount(labels).double(),
        torch.stack([part.mean(0) for part in parts]),
        torch.stack([part.T.cov() + width**2 * torch.eye(64, dtype=torch.float64) for part in parts]),
    )


def by_mixture(seen: Any, A: Tensor, truth: Tensor, draws: int, seed: int) -> Tensor:
    """Exact draws from the posterior of the class mixture: what a simple law with a known answer makes of the question."""
    law = class_mixture(seen.images, seen.labels)
    generator = torch.Generator().manual_seed(seed)
    found = []
    for x0 in truth.flatten(1).double():
        answer = law.given(A.double(), A.double() @ x0, noise_std=NOISE)
        found.append(answer.sample(draws, generator=generator).float())
    return torch.stack(found).reshape(len(truth), draws, *truth.shape[1:])


if __name__ == "__main__":
    sys.exit(main())
