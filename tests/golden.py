"""The authors' networks, as numbers: blocks, tiny networks and their parameters' names (tests/data/networks.json).

Weights and inputs are formulas, so that nothing large is stored: parameter number p of an entry, flat element j, is
0.3 sin(1 + 1.3 p + 0.7 j), an input cos(0.9 j + 0.5). Outputs are those of the authors' code (commit cb1f359) in float64.
"""

import json
import math
from pathlib import Path

import torch

from sdelib.checkpoint import Checkpoint, _fill, converted

PLACE = Path(__file__).with_name("data") / "networks.json"
ENTRIES = {entry["id"]: entry for entry in json.loads(PLACE.read_text())["entries"]}
RTOL, ATOL = 1e-9, 1e-11  # the file's own tolerance in float64; outputs have twelve digits


def wave(shape, *, scale=1.0, offset=0.0, step=0.9, start=0.5):
    """scale cos(step j + start) + offset, row by row."""
    j = torch.arange(math.prod(shape), dtype=torch.float64)
    return (scale * torch.cos(step * j + start) + offset).reshape(shape)


def weights(entry):
    """The entry's parameters by the authors' names."""
    made = {}
    for p, (name, shape) in enumerate(entry["inputs"]["params"]):
        j = torch.arange(math.prod(shape), dtype=torch.float64)
        made[name] = (0.3 * torch.sin(1 + 1.3 * p + 0.7 * j)).reshape(shape)
    return made


def fill(net, entry):
    """A U-Net with the entry's weights, in float64 and without dropout."""
    net = net.double().eval()
    return _fill(net, converted(net, Checkpoint(weights(entry), None, None, None), ema=False))


def tensor(values):
    return torch.tensor(values, dtype=torch.float64)
