"""Graders of chapter 14: Architectures."""

import math

import torch

from sdelib.exercises import Wrong, grader, near


@grader("ex-14-count", "block_numbers(c, out, heard): trained numbers of a residual block that does not resample")
def count(block_numbers):
    for c, out, heard in ((128, 256, 512), (128, 128, 512), (8, 12, 6)):
        norms, convolutions = 2 * (c + out), 9 * c * out + 9 * out * out + 2 * out
        dense, shortcut = heard * out + out, (c * out + out) * (c != out)
        right = norms + convolutions + dense + shortcut
        near(
            f"block_numbers({c}, {out}, {heard})",
            block_numbers(c, out, heard),
            right,
            atol=0.5,
            traps=[
                (right - shortcut, "where c and out differ, a 1 × 1 convolution brings x to h's width"),
                (norms + convolutions + dense + c * out + out, "with c and out equal there is no shortcut"),
                (right - norms, "the two normalisations have a factor and a shift a channel"),
                (right - dense, "the time comes in through a dense layer"),
                (right - out, "one of the biases is missing"),
                (right - 2 * out, "two of the biases are missing"),
                (right - 3 * out, "three of the biases are missing"),
                (4 * c + right - norms, "the second normalisation is as wide as the block's output"),
            ],
        )
    return "Of a block with as many channels in as out most numbers are the convolutions': 18 times the square of the channels."


@grader(
    "ex-14-branches",
    "factor(k): the factor that keeps the variance at 1 with k corrections beside the path",
    "share(k, n): share of the variance after n blocks that came in at the beginning",
)
def branches(factor, share):
    for k in (1, 2, 5):
        near(
            f"factor({k})",
            factor(k),
            1 / math.sqrt(1 + k),
            rtol=1e-6,
            traps=[
                (1 / (1 + k), "that is the factor of the variance; a factor of the numbers is its root"),
                (1 / math.sqrt(2), "that is for one correction"),
                (1 / math.sqrt(k) if k > 1 else -1.0, "the path itself is one of the terms, too"),
            ],
        )
    for k, n in ((1, 5), (2, 3), (3, 10)):
        near(
            f"share({k}, {n})",
            share(k, n),
            (1 + k) ** (-n),
            rtol=1e-6,
            traps=[
                ((1 + k) ** (-n / 2), "that is the share of the standard deviation"),
                (1 / (1 + k * n), "that is without the factor, where the total grows"),
                (1 / (1 + k), "that is after one block; there are n"),
            ],
        )
    return (
        "A path that keeps its variance by dividing forgets: each block leaves one part in 1 + k of what came before."
    )


@grader("ex-14-leak", "leak(taps): the share of a filter's power that lies beyond π/2")
def leak(leak):
    def powers(taps):
        w = (torch.arange(4000, dtype=torch.float64) + 0.5) * math.pi / 4000
        turns = torch.exp(-1j * w[:, None] * torch.arange(len(taps)))
        size = (turns @ torch.tensor(taps, dtype=torch.float64).to(turns.dtype)).abs()
        return size[:2000], size[2000:]

    for taps in ((1.0, 1.0), (1.0, 3.0, 3.0, 1.0), (1.0, 2.0), (-0.1, 0.2, 1.0, 1.0, 0.2, -0.1)):
        low, high = powers(taps)
        right = float((high**2).sum() / ((low**2).sum() + (high**2).sum()))
        near(
            f"leak({taps})",
            leak(taps),
            right,
            rtol=0.01,
            traps=[
                (float(high.sum() / (low.sum() + high.sum())), "power is the square of the response"),
                (float((high**2).sum() / (low**2).sum()), "the share of all power, not the ratio to what is below π/2"),
                (1 - right, "that is the share below π/2"),
                (float((high**2).mean() / sum(taps) ** 2), "divide by the power of all frequencies"),
            ],
        )
    return "A filter that leaks nothing would have to be a step at π/2, which no finite list of taps is."


@grader(
    "ex-14-ablation",
    "base_loss: the base's mean held-out loss after 40 steps",
    "changed_loss: the same with your change",
)
def ablation(base_loss, changed_loss):
    values = {"base_loss": float(base_loss), "changed_loss": float(changed_loss)}
    usual = "a network that says nothing has a loss of 1 a pixel; after 40 steps it is somewhat below"
    for name, value in values.items():
        if not math.isfinite(value):
            raise Wrong(f"{name} is {value}: did the training diverge?")
        if value > 5:
            raise Wrong(f"{name} is {value:.3g}: summed over 64 pixels? {usual[0].upper()}{usual[1:]}.")
        if value <= 0.2 or value > 1.2:
            raise Wrong(f"{name} is {value:.3g}: {usual}.")
    if values["base_loss"] == values["changed_loss"]:
        raise Wrong("Both losses are the same to the last digit: did the change reach the network?")
    return "Two numbers, one seed: now ask what another seed would have given."
