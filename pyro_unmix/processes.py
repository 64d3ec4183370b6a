"""Several processes that train one guide together: what each does for itself, and what they do as one."""

from __future__ import annotations

import atexit
import logging
import math
import os
import warnings
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from datetime import timedelta
from typing import Any, TypeVar

import numpy as np
import pyro
import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from pyro_unmix.errors import InputError, ProcessLost, UnmixWarning

# So long a process waits at most for one that lives but does not come: the first draws what pixels share while all others wait.
# One that has died is missed at once.
_PATIENCE = timedelta(minutes=30)

T = TypeVar("T")


@dataclass(frozen=True)
class Processes:
    """This process and those it trains with: none, unless `together` says otherwise.

    What is called here is called in all of them, in the same order; alone, it costs nothing and changes nothing.

    Attributes
    ----------
    device
        Where this process trains.
    rank
        Its number, from 0. The first one talks and writes.
    size
        How many there are.
    """

    device: torch.device
    rank: int = 0
    size: int = 1

    @property
    def first(self) -> bool:
        return self.rank == 0

    def agree(self, describe: Callable[[], str]) -> None:
        """Raise `InputError` where processes describe different work: one would wait for the others in vain."""
        if self.size > 1 and len(set(self.gather(describe()))) > 1:
            raise InputError(f"the same fit in all of {self.size} processes", "fits that differ",
                             "give every process the same scene, model, seed and settings")

    def share(self, tiles_per_step: int, n_tiles: int) -> int:
        """How many tiles of a step are this process's, of a scene of `n_tiles`. All have as many, and one at least.

        Raises
        ------
        InputError
            There are fewer tiles than processes.
        """
        if n_tiles < self.size:
            raise InputError(f"a tile of the scene for each of {self.size} processes", f"{n_tiles}",
                             "start fewer processes, or make tile_size smaller")
        return min(math.ceil(tiles_per_step / self.size), n_tiles // self.size)

    def deal(self, numbers: Tensor, n: int) -> Tensor:
        """`n` of the first process's `numbers`; no two processes are given the same."""
        if self.size > 1:
            numbers = numbers.to(self.device)
            dist.broadcast(numbers, src=0)
        return numbers[self.rank :: self.size][:n]

    def seed(self, seed: int) -> int:
        """A seed of this process's own; that of the first is `seed`."""
        return seed if self.first else int(np.random.SeedSequence([seed, self.rank]).generate_state(1)[0])

    def part_ways(self, seed: int) -> None:
        """From here on, random numbers of its own for every process; the first goes on with those it has."""
        if not self.first:
            pyro.set_rng_seed(self.seed(seed))

    def averaged(self, loss_of: Callable[..., Tensor], parameters: Iterable[nn.Parameter]) -> Callable[..., Tensor]:
        """The same loss; but going back from it, gradients of `parameters` come out as their mean over processes."""
        if self.size == 1:
            return loss_of
        # Static: a stage uses the same parameters in every step, and need not use all (none of the encoder's under a held head).
        return DistributedDataParallel(_Loss(loss_of, parameters), static_graph=True)

    def mean(self, value: Tensor) -> Tensor:
        """Mean over processes; not finite where it is not so in one of them."""
        if self.size == 1:
            return value
        total = value.clone()
        dist.all_reduce(total)
        return total / self.size

    def from_first(self, make: Callable[[], T]) -> T:
        """What `make` returns in the first process, the only one to call it. It must be possible to pickle it."""
        made: list[Any] = [make() if self.first else None]
        if self.size > 1:
            dist.broadcast_object_list(made, src=0, device=self.device)
        return made[0]

    def gather(self, value: T) -> list[T]:
        """The values of all processes, by rank."""
        values: list[Any] = [value] * self.size
        if self.size > 1:
            dist.all_gather_object(values, value)
        return values


@contextmanager
def together(device: torch.device) -> Iterator[Processes]:
    """Train with the other processes that torchrun has started or a group of `torch.distributed` has; alone without either.

    On CUDA every process has a GPU of its own. Only the first one warns and logs. A group that is joined here stays until the
    process ends, which is when the others miss it.

    Raises
    ------
    InputError
        There are fewer GPUs than processes on this machine.
    ProcessLost
        Another process has stopped, or is not heard of for half an hour.
    """
    rank, size = _place()
    if size == 1:
        yield Processes(device)
        return
    on_gpu = device.type == "cuda"
    if on_gpu:
        device = torch.device("cuda", _gpu(rank))
    try:
        with torch.cuda.device(device) if on_gpu else nullcontext(), _silence() if rank else nullcontext():
            if not dist.is_initialized():
                dist.init_process_group("cpu:gloo,cuda:nccl" if on_gpu else "gloo", timeout=_PATIENCE)
                atexit.register(dist.destroy_process_group)
            yield Processes(device, rank, size)
    except RuntimeError as error:
        if isinstance(error, dist.DistError) or "gloo" in str(error):  # whose errors have no class of their own
            raise ProcessLost(rank, size) from error
        raise


def is_first() -> bool:
    """Whether this process is the one that talks and writes."""
    return _place()[0] == 0


class _Loss(nn.Module):
    """A loss as a module that holds its parameters and nothing else: there are no buffers to be sent around."""

    def __init__(self, loss_of: Callable[..., Tensor], parameters: Iterable[nn.Parameter]):
        super().__init__()
        self.loss_of, self.trained = loss_of, nn.ParameterList(parameters)

    def forward(self, *arguments) -> Tensor:
        return self.loss_of(*arguments)


def _place() -> tuple[int, int]:
    """Rank of this process, and how many there are."""
    if dist.is_available() and dist.is_initialized():
        return dist.get_rank(), dist.get_world_size()
    if {"RANK", "WORLD_SIZE", "MASTER_ADDR"} <= set(os.environ):  # all of torchrun's, or they are another program's
        return int(os.environ["RANK"]), int(os.environ["WORLD_SIZE"])
    return 0, 1


def _gpu(rank: int) -> int:
    """Number of this process's GPU on this machine."""
    n_gpus = torch.cuda.device_count()
    number = int(os.environ.get("LOCAL_RANK", rank % n_gpus))
    if number >= n_gpus:
        raise InputError("a GPU for every process on a machine", f"{n_gpus} and a process with number {number}, from 0",
                         "start as many processes as there are GPUs, or use device 'cpu'")
    return number


@contextmanager
def _silence() -> Iterator[None]:
    log = logging.getLogger("pyro_unmix")
    level = log.level
    log.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", UnmixWarning)
            yield
    finally:
        log.setLevel(level)
