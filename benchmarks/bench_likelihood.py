"""What does one forward pass less save, and what do exact likelihoods cost?

`log_likelihood` beside the usual way, which evaluates the network twice whenever the solver asks: once for the velocity, and
once more, with derivatives, for the divergence (so does the authors' code). Both go by torchdiffeq's dopri5 with the same steps,
probes and precision; before anything is timed, both must end at the same log-densities after about as many questions of the
solver (roundings grow along a picture's rough flow). The networks are an untrained perceptron on points and the small DDPM++ of
chapters 9 to 13 on digits. The two of a row run by turns, and each number is the best of several runs.

forwards: network calls for each question of the solver. Times are milliseconds of CPU for each question.
"""

import argparse
import platform
import time
from collections.abc import Callable
from typing import NamedTuple

import torch
import torchdiffeq
from torch import Tensor, nn

import sdelib
from sdelib import VP, dequantise, log_likelihood, net_score, probes, recorded
from sdelib.data import digits
from sdelib.models import MLP, ddpmpp
from sdelib.ode import _worst_item
from sdelib.types import ScoreFn

SDE = VP()
T_MIN = 1e-3
TOLERANCE = 1e-4


class Result(NamedTuple):
    """One likelihood: log-densities, codes, and how often solver and network were asked."""

    log_prob: Tensor
    latent: Tensor
    questions: int
    forwards: int


Run = Callable[[], Result]


class Counted(nn.Module):
    """A network, and how often it was asked."""

    def __init__(self, net: nn.Module) -> None:
        super().__init__()
        self.net, self.calls = net, 0

    def forward(self, x: Tensor, label: Tensor) -> Tensor:
        self.calls += 1
        return self.net(x, label)


def ours(net: Counted, score: ScoreFn, x0: Tensor, probe: Tensor | None) -> Run:
    def run() -> Result:
        net.calls = 0
        found = log_likelihood(SDE, score, x0, probe=probe, t_min=T_MIN, rtol=TOLERANCE, atol=TOLERANCE)
        return Result(found.log_prob, found.latent, found.nfe, net.calls)

    return run


def by_two(net: Counted, score: ScoreFn, x0: Tensor, probe: Tensor | None) -> Run:
    """Velocity by one forward pass, divergence by another; for one probe or the exact trace."""
    ends = torch.tensor([T_MIN, 1.0], dtype=torch.float64)
    # the steps that log_likelihood takes, so that the same work is done
    options = {"norm": _worst_item, "dtype": torch.float64, "first_step": 0.01 * (1.0 - T_MIN), "step_t": ends[1:]}

    def velocity(x: Tensor, t: Tensor) -> Tensor:
        rate = 0.1 + 19.9 * t
        return -0.5 * rate * (x + score(x.to(x0), t.expand(len(x)).to(x0)))

    def trace(x: Tensor, t: Tensor) -> Tensor:
        with torch.enable_grad():
            leaf = x.detach().requires_grad_()
            v = velocity(leaf, t)
            if probe is not None:
                (row,) = torch.autograd.grad(v, leaf, probe.to(v))
                return (row * probe).flatten(1).sum(1)
            total = torch.zeros(len(x), dtype=v.dtype)
            for d in range(x[0].numel()):
                (row,) = torch.autograd.grad(v.flatten(1)[:, d].sum(), leaf, retain_graph=True)
                total += row.flatten(1)[:, d]
            return total

    def run() -> Result:
        net.calls, questions = 0, 0

        def rates(t: Tensor, state: tuple[Tensor, Tensor]) -> tuple[Tensor, Tensor]:
            nonlocal questions
            questions += 1
            with torch.no_grad():
                v = velocity(state[0], t)
            return v, trace(state[0], t)

        state = x0.double(), torch.zeros(len(x0), dtype=torch.float64)
        xs, changes = torchdiffeq.odeint(
            rates, state, ends, method="dopri5", rtol=TOLERANCE, atol=TOLERANCE, options=dict(options)
        )
        return Result(SDE.prior_log_prob(xs[-1]) + changes[-1], xs[-1], questions, net.calls)

    return run


def same(theirs: Run, mine: Run, *, nats: float) -> tuple[Result, Result]:
    """The same log-densities within ``nats``, and about as many questions."""
    a, b = theirs(), mine()
    torch.testing.assert_close(a.log_prob.to(b.log_prob), b.log_prob, rtol=0.0, atol=nats)
    assert abs(a.questions - b.questions) <= 0.15 * b.questions, f"{a.questions} questions against {b.questions}"
    return a, b


def best(runs: tuple[Run, Run], repeats: int) -> list[float]:
    """Milliseconds a question of each, of CPU time: other programs disturb it less than the clock's."""
    costs: list[list[float]] = [[], []]
    for _ in range(repeats + 1):  # the first round warms caches and does not count
        for run, own in zip(runs, costs, strict=True):
            start = time.process_time()
            questions = run().questions
            own.append((time.process_time() - start) / questions * 1e3)
    return [min(own[1:]) for own in costs]


def cases(generator: torch.Generator) -> list[tuple[str, nn.Module, tuple[int, ...], int, bool]]:
    """Name, network, shape of the data, repeats, and whether the trace is exact."""
    point = MLP(2, generator=generator).eval()
    record = recorded.read("digits_nets")  # trained: an untrained one's flow is too rough to be followed twice alike
    small = record.load(ddpmpp(**record.data["vp"]["net"]), "vp").eval()
    return [
        ("points, exact", point, (1, 2), 9, True),
        ("points, exact", point, (1_000, 2), 9, True),
        ("points, exact", point, (10_000, 2), 5, True),
        ("points, 1 probe", point, (1_000, 2), 9, False),
        ("digits, 1 probe", small, (1, 1, 8, 8), 7, False),
        ("digits, 1 probe", small, (32, 1, 8, 8), 3, False),
    ]


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--repeats", type=int, help="runs of each (default: 2 to 9, by the row)")
    args = parser.parse_args(arguments)
    torch.set_num_threads(1)  # steadier
    generator = torch.Generator().manual_seed(0)
    print("forwards and milliseconds of CPU for each question of the solver; ratio = two forwards / log_likelihood")
    print(f"{'what':<16} {'batch':>7} {'questions':>10} {'forwards':>14} {'two':>9} {'one':>9} {'ratio':>6}")
    for name, module, shape, repeats, exact in cases(generator):
        net = Counted(module)
        score = net_score(net, SDE).eval()
        x0 = torch.randn(shape, generator=generator)
        if len(shape) > 2:
            levels = (digits(split="test").images[: shape[0]] * 16).round()
            x0 = dequantise(levels, levels=17, data_range=(-1.0, 1.0), generator=generator)
        probe = None if exact else probes(x0, generator=generator)[0]
        pair = by_two(net, score, x0, probe), ours(net, score, x0, probe)
        # In float32 the two round differently, and along a picture's rough flow roundings grow.
        theirs, mine = same(*pair, nats=0.5 if len(shape) > 2 else 1e-3)
        calls = f"{theirs.forwards / theirs.questions:.2f} and {mine.forwards / mine.questions:.2f}"
        two, one = best(pair, args.repeats or repeats)
        print(
            f"{name:<16} {shape[0]:>7,} {mine.questions:>10} {calls:>14} {two:>9.3f} {one:>9.3f} {two / one:>6.2f}",
            flush=True,
        )
    versions = ", ".join(f"{m.__name__} {m.__version__}" for m in (sdelib, torch, torchdiffeq))
    print(f"{versions}, Python {platform.python_version()}, one thread")
    print(f"{platform.processor() or platform.machine()}, {platform.system()}")


if __name__ == "__main__":
    main()
