"""What all tests share. Oracles with closed forms stand in problems.py."""

from collections.abc import Iterator

import hypothesis
import pytest
import torch

# Examples are a fixed sequence, so that a run can be repeated; no deadline, for a loaded machine is no failure.
hypothesis.settings.register_profile("sdelib", deadline=None, derandomize=True, max_examples=50, database=None)
hypothesis.settings.load_profile("sdelib")


@pytest.fixture
def generator() -> torch.Generator:
    """A seeded stream of one's own."""
    return torch.Generator().manual_seed(20_210_502)


@pytest.fixture
def untouched() -> Iterator[None]:
    """Fail if the test drew from torch's global stream: given a generator, nothing may."""
    before = torch.get_rng_state()
    yield
    assert torch.equal(before, torch.get_rng_state()), "something drew from the global random stream"
