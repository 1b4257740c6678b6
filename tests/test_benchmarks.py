"""The benchmarks still run, and what they compare still computes the same thing. Nothing is timed."""

import importlib.util
import pathlib

import pytest
import torch

from sdelib import Path

FOLDER = pathlib.Path(__file__).resolve().parent.parent / "benchmarks"


@pytest.fixture(scope="module")
def bench():
    pytest.importorskip("diffusers")
    spec = importlib.util.spec_from_file_location("bench_simulate", FOLDER / "bench_simulate.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    module.STEPS = 50
    return module


@pytest.mark.parametrize("pair", ["by hand", "Euler-Maruyama", "Runge-Kutta", "DDPM"])
def test_each_pair_ends_at_the_same_points(bench, pair):
    """Building a pair compares it (to 1e-3, for float32); a wrong one is noticed."""
    xT = torch.randn(3, 2, generator=bench.seeded())
    build = {
        "by hand": bench.by_hand,
        "Euler-Maruyama": lambda xT: bench.of_torchsde(xT, "euler"),
        "Runge-Kutta": lambda xT: bench.of_torchsde(xT, "srk"),
        "DDPM": bench.of_diffusers,
    }[pair]
    theirs, ours = build(xT)
    assert torch.isfinite(theirs()).all()
    assert torch.isfinite(ours().x).all()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(bench, "simulate", lambda *a, **k: Path(theirs() + 0.01, None, None, 0))
        with pytest.raises(AssertionError, match="not close"):
            build(xT)
