"""Work in processes of its own: its memory can be told apart, and when it crashes nothing else is lost."""

from __future__ import annotations

import os
import signal
import sys
import time
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from multiprocessing import connection, get_all_start_methods, get_context
from typing import Any, TypeVar

import torch

Task = TypeVar("Task")
# Imported once, by the process that all others are forked from where the system can fork: no run pays for it.
_PRELOADED = "pyro_unmix.benchmark.run"
# numpy counts its threads when it is imported, so a process must be born with these.
_ONE_THREAD = {"OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1", "MKL_NUM_THREADS": "1", "VECLIB_MAXIMUM_THREADS": "1"}


def each_alone(
    work: Callable[[Task], dict], tasks: Sequence[Task], *, jobs: int = 1, timeout: float = 1800.0
) -> Iterator[tuple[Task, dict]]:
    """`work(task)` for each of `tasks`, `jobs` at once, each in a process of its own with one thread; results as they come.

    A task that raises, crashes or takes longer than `timeout` seconds gives `{"error": text}`.
    """
    forks = "forkserver" in get_all_start_methods()
    context: Any = get_context("forkserver" if forks else "spawn")
    if forks:
        context.set_forkserver_preload([_PRELOADED])
    waiting = list(tasks)
    running: dict[Any, _Run] = {}
    try:
        while waiting or running:
            while waiting and len(running) < jobs:
                task = waiting.pop(0)
                receiver, sender = context.Pipe(duplex=False)
                process = context.Process(target=_child, args=(sender, work, task), daemon=True)
                with _environment(_ONE_THREAD):
                    process.start()
                sender.close()
                running[receiver] = _Run(task, process, time.monotonic() + timeout)
            soonest = min(run.deadline for run in running.values())
            ready = connection.wait(list(running), timeout=max(0.0, soonest - time.monotonic()))
            late = [receiver for receiver, run in running.items() if receiver not in ready and run.deadline <= time.monotonic()]
            for receiver in [*ready, *late]:
                run = running.pop(receiver)
                result = {"error": f"stopped after {timeout:g} s"} if receiver in late else _received(receiver, run.process)
                _end(receiver, run.process)
                yield run.task, result
    finally:
        for receiver, run in running.items():
            _end(receiver, run.process)


def peak_memory() -> float:
    """Most memory this process has had so far, MB (10^6 bytes); NaN where the system does not tell."""
    try:
        import resource
    except ImportError:  # Windows
        return float("nan")
    unit = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit / 1e6


@dataclass
class _Run:
    task: Any
    process: Any
    deadline: float


def _child(sender: connection.Connection, work: Callable[[Task], dict], task: Task) -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C reaches the parent, which ends its children
    torch.set_num_threads(1)
    warnings.simplefilter("ignore")  # the parent has seen the scene already
    try:
        result = work(task)
    except Exception as error:  # whatever it is, it belongs into the table
        result = {"error": " ".join(f"{type(error).__name__}: {error}".split())}
    sender.send(result)


def _received(receiver: connection.Connection, process: Any) -> dict:
    try:
        return receiver.recv()
    except (EOFError, OSError):
        process.join()
        return {"error": f"the process ended with code {process.exitcode}"
                + (" (killed: perhaps out of memory)" if process.exitcode == -9 else "")}


def _end(receiver: connection.Connection, process: Any) -> None:
    receiver.close()
    process.join(1.0)
    process.kill()
    process.join()


@contextmanager
def _environment(variables: dict[str, str]) -> Iterator[None]:
    before = {name: os.environ.get(name) for name in variables}
    os.environ.update(variables)
    try:
        yield
    finally:
        for name, value in before.items():
            if value is None:
                del os.environ[name]
            else:
                os.environ[name] = value
