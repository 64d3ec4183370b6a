"""State of the numerical libraries, changed for a while and put back."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import pyro
import torch


@contextmanager
def flush_denormals() -> Iterator[None]:
    """Treat denormal numbers as zero: weights that decay to them make a matrix product a hundred times slower."""
    was_on = float(torch.tensor([1e-40]).mul(1.0)) == 0.0
    torch.set_flush_denormal(True)
    try:
        yield
    finally:
        torch.set_flush_denormal(was_on)


@contextmanager
def seeded(seed: int) -> Iterator[None]:
    """Random numbers from `seed`; the state outside is left as it was."""
    state = pyro.util.get_rng_state()
    pyro.set_rng_seed(seed)
    try:
        yield
    finally:
        pyro.util.set_rng_state(state)
