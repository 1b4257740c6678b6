"""The moving average of a network's weights, with which one samples.

After update n = 1, 2, ... with weights w_n (the authors' rule; their code's defaults are 0.999 for VE, 0.9999 for VP)::

    average <- d_n average + (1 - d_n) w_n,      d_n = min(decay, (1 + n) / (10 + n)).

The warm-up lets the average follow the first, fast stretch of training: an average with decay 0.9999 alone would still
hold a third of the initial weights after 10,000 steps. Starting from w_0, the average is a weighted mean of w_0..w_n whose
weights sum to 1.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn


class EMA:
    """The running average of a module's parameters; its buffers are copied as they are.

    Args:
        module: the module to follow. The average starts as a copy of it.
        decay: the largest d_n, in [0, 1): about the last 1/(1 - decay) steps count.

    Raises:
        ValueError: if ``decay`` is not in [0, 1).
    """

    def __init__(self, module: nn.Module, *, decay: float = 0.999) -> None:
        if not 0.0 <= decay < 1.0:
            raise ValueError(f"decay: needs a number in [0, 1), got {decay!r}")
        self.decay, self.updates = float(decay), 0
        self.average: dict[str, Tensor] = {name: value.detach().clone() for name, value in _tensors(module)}

    @property
    def current_decay(self) -> float:
        """d_n of the last update, min(decay, (1 + n)/(10 + n))."""
        return min(self.decay, (1 + self.updates) / (10 + self.updates))

    @torch.no_grad()
    def update(self, module: nn.Module) -> None:
        """Take in the module's present weights.

        Raises:
            ValueError: if the module's tensors are not the ones that the average was made from.
        """
        self._check(module)
        self.updates += 1
        keep = self.current_decay
        trained = dict(module.named_parameters())
        for name, value in _tensors(module):
            if name in trained and value.is_floating_point():
                self.average[name].lerp_(value, 1 - keep)
            else:
                self.average[name].copy_(value)

    @torch.no_grad()
    def copy_to(self, module: nn.Module) -> None:
        """Put the average into a module of the same make.

        Raises:
            ValueError: if its tensors do not match.
        """
        self._check(module)
        for name, value in _tensors(module):
            value.copy_(self.average[name])

    @contextmanager
    def swapped(self, module: nn.Module) -> Iterator[nn.Module]:
        """Within the block the module holds the average; afterwards its own weights again, even after an error."""
        kept = {name: value.detach().clone() for name, value in _tensors(module)}
        self.copy_to(module)
        try:
            yield module
        finally:
            with torch.no_grad():
                for name, value in _tensors(module):
                    value.copy_(kept[name])

    def state_dict(self) -> dict[str, Any]:
        """Everything to go on from: ``decay``, ``updates`` and a copy of ``average``."""
        average = {name: value.clone() for name, value in self.average.items()}
        return {"decay": self.decay, "updates": self.updates, "average": average}

    @torch.no_grad()
    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on from a saved state.

        Raises:
            ValueError: if its tensors have other names or shapes.
        """
        _check_match({name: value.shape for name, value in state["average"].items()}, self.average, "state")
        self.decay, self.updates = float(state["decay"]), int(state["updates"])
        for name, value in self.average.items():
            value.copy_(state["average"][name])

    def _check(self, module: nn.Module) -> None:
        _check_match({name: value.shape for name, value in _tensors(module)}, self.average, "module")


def _tensors(module: nn.Module) -> Iterator[tuple[str, Tensor]]:
    yield from module.named_parameters()
    yield from module.named_buffers()


def _check_match(shapes: dict[str, torch.Size], average: dict[str, Tensor], what: str) -> None:
    expected = {name: value.shape for name, value in average.items()}
    if shapes != expected:
        names = sorted(name for name in shapes.keys() | expected.keys() if shapes.get(name) != expected.get(name))
        raise ValueError(f"{what}: needs the tensors that the average was made from, differs in {', '.join(names[:5])}")
