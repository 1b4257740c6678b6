"""What does one image cost, forward and backward?

NCSN++ for CIFAR-10, beside two U-Nets of diffusers with as many parameters, and beside a floor. All three see the same batch of
32 x 32 images, are in training mode and compute the gradient of a squared error; the optimiser is left out, as it is the same.

diffusers' networks have another architecture, so their work differs; "GFLOP" says by how much. One is stacked as NCSN++ is (four
blocks a level, attention at 16 x 16), one is diffusers' own way to reach that size (two blocks a level, wider).

The floor is the work (counted by PyTorch's own counter: convolutions and matrix products, a multiply-add is two) at the speed of
the network's commonest convolution alone, forward, in its best memory layout, measured in the same run. Nothing that also
normalises can reach it.

Each time is the best of several rounds, in which the networks take turns, for the best run is disturbed least.
"""

import argparse
import os
import platform
import time
from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

import sdelib
from sdelib.models import ncsnpp

Step = Callable[[], None]
Call = Callable[[nn.Module, Tensor, Tensor], Tensor]


def ours(net: nn.Module, x: Tensor, t: Tensor) -> Tensor:
    return net(x, t)


def theirs(net: nn.Module, x: Tensor, t: Tensor) -> Tensor:
    return net(x, t).sample


def networks(device: str) -> dict[str, tuple[nn.Module, Call]]:
    """Each network, and how it is called."""
    nets: dict[str, tuple[nn.Module, Call]] = {"sdelib NCSN++": (ncsnpp(), ours)}
    try:
        from diffusers import UNet2DModel
    except ImportError:
        print('diffusers is missing: pip install "sdelib[test]"')
    else:
        plain, seeing = ("DownBlock2D", "UpBlock2D"), ("AttnDownBlock2D", "AttnUpBlock2D")
        kinds = (plain, seeing, plain, plain)
        for name, blocks, widths in (
            ("diffusers, 4 blocks", 4, (128, 256, 256, 256)),
            ("diffusers, 2 blocks", 2, (160, 320, 320, 320)),
        ):
            net = UNet2DModel(
                sample_size=32,
                layers_per_block=blocks,
                block_out_channels=widths,
                down_block_types=[down for down, _ in kinds],
                up_block_types=[up for _, up in reversed(kinds)],
                attention_head_dim=None,
                dropout=0.1,
            )
            nets[name] = (net, theirs)
    return {name: (net.to(device).train(), call) for name, (net, call) in nets.items()}


def step_of(net: nn.Module, call: Call, x: Tensor, t: Tensor) -> Step:
    def step() -> None:
        (call(net, x, t) - x).square().mean().backward()
        for parameter in net.parameters():
            parameter.grad = None

    return step


def seconds(step: Step, device: str) -> float:
    start = time.perf_counter()
    step()
    if device == "cuda":
        torch.cuda.synchronize()
    return time.perf_counter() - start


def convolution_speed(device: str, batch: int, rounds: int) -> float:
    """FLOP/s of 3 x 3 convolutions of 256 channels at 16 x 16 pixels, forward, in the faster layout."""
    best = 0.0
    for layout in (torch.contiguous_format, torch.channels_last):
        x = torch.randn(batch, 256, 16, 16, device=device).to(memory_format=layout)
        w = torch.randn(256, 256, 3, 3, device=device).to(memory_format=layout)

        def step(x: Tensor = x, w: Tensor = w) -> None:
            for _ in range(10):
                F.conv2d(x, w, padding=1)

        with torch.no_grad():
            fastest = min(seconds(step, device) for _ in range(rounds + 1))
        best = max(best, 10 * 2 * 9 * 256 * 256 * 16 * 16 * batch / fastest)
    return best


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    device = "cuda" if torch.cuda.is_available() else "cpu"
    parser.add_argument("--batch", type=int, default=128 if device == "cuda" else 8)
    parser.add_argument("--rounds", type=int, default=10 if device == "cuda" else 3)
    args = parser.parse_args()

    torch.manual_seed(0)
    x = torch.rand(args.batch, 3, 32, 32, device=device)
    t = torch.linspace(0.1, 3.0, args.batch, device=device)
    steps, work, size = {}, {}, {}
    for name, (net, call) in networks(device).items():
        steps[name] = step_of(net, call, x, t)
        size[name] = sum(p.numel() for p in net.parameters())
        with FlopCounterMode(display=False) as counter:
            steps[name]()
        work[name] = counter.get_total_flops() / args.batch
    speeds, times = [], {name: [] for name in steps}
    for _ in range(args.rounds):
        speeds.append(convolution_speed(device, args.batch, 2))
        for name, step in steps.items():
            times[name].append(seconds(step, device) / args.batch)
    speed = max(speeds)
    mine = min(times["sdelib NCSN++"])
    print(f"{'':>20} {'parameters':>12} {'GFLOP':>7} {'s/image':>9} {'of ours':>8} {'floor s':>9} {'over floor':>11}")
    for name in steps:
        best, floor = min(times[name]), work[name] / speed
        row = f"{name:>20} {size[name]:>12,} {work[name] / 1e9:>7.1f} {best:>9.4f}"
        print(f"{row} {best / mine:>8.2f} {floor:>9.4f} {best / floor:>11.2f}")
    print(f"convolutions run at {speed / 1e9:,.0f} GFLOP/s here; forward and backward, batch {args.batch}, float32")
    where = torch.cuda.get_device_name() if device == "cuda" else platform.processor() or platform.machine()
    threads = "" if device == "cuda" else f", {torch.get_num_threads()} of {os.cpu_count()} threads"
    print(f"sdelib {sdelib.__version__}, torch {torch.__version__}{_version()}, Python {platform.python_version()}")
    print(f"{where}{threads}")


def _version() -> str:
    try:
        import diffusers
    except ImportError:
        return ""
    return f", diffusers {diffusers.__version__}"


if __name__ == "__main__":
    main()
