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


@pytest.fixture
def as_a_script() -> Iterator[None]:
    """Single precision, as where a recording script runs; afterwards what it or ``main`` set is as before."""
    before, threads = torch.get_default_dtype(), torch.get_num_threads()
    torch.set_default_dtype(torch.float32)
    yield
    torch.set_default_dtype(before)
    torch.set_num_threads(threads)
