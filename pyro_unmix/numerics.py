"""State of the numerical libraries, changed for a while and put back."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from threading import RLock

import numpy as np
import pyro
import torch

from pyro_unmix.errors import InputError

# A process has one state of its random numbers.
_RANDOM = RLock()


@contextmanager
def flush_denormals() -> Iterator[None]:
    """Treat denormal numbers as zero: on some processors weights that decay to them make a product many times slower.

    It holds for this thread and those it starts from now on; threads that torch has started before keep their denormals.
    """
    was_on = float(torch.tensor([1e-40]).mul(1.0)) == 0.0
    torch.set_flush_denormal(True)
    try:
        yield
    finally:
        torch.set_flush_denormal(was_on)


@contextmanager
def one_thread() -> Iterator[None]:
    """Work in one thread. Also a decorator.

    The products here are small: a second thread hardly helps, and where another program keeps a core busy it makes a step 30
    times slower, because threads wait for each other after every product.
    """
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)


@contextmanager
def repeatable(device: torch.device) -> Iterator[None]:
    """On a GPU, choose algorithms that give the same result every time; on a processor they all do.

    What no such algorithm is known for runs as it does. cuBLAS reads its setting when it is first used in a process.
    """
    if device.type != "cuda":
        yield
        return
    os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
    before = torch.are_deterministic_algorithms_enabled(), torch.is_deterministic_algorithms_warn_only_enabled()
    torch.use_deterministic_algorithms(True, warn_only=True)
    try:
        yield
    finally:
        torch.use_deterministic_algorithms(before[0], warn_only=before[1])


@contextmanager
def seeded(seed: int) -> Iterator[None]:
    """Random numbers from `seed`; the state outside is left as it was, that of GPUs in use too. One thread at a time.

    Raises
    ------
    InputError
        Not a whole number from 0 to 2^32 - 1.
    """
    if not isinstance(seed, (int, np.integer)) or not 0 <= seed < 2**32:
        raise InputError("a seed, a whole number from 0 to 4294967295", repr(seed))
    devices = range(torch.cuda.device_count()) if torch.cuda.is_initialized() else []
    with _RANDOM, torch.random.fork_rng(devices=devices):
        state = pyro.util.get_rng_state()
        pyro.set_rng_seed(int(seed))
        try:
            yield
        finally:
            pyro.util.set_rng_state(state)
