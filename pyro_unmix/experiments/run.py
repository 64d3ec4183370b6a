"""What all experiments do: runs that go on where they stopped, then a table and a plot of them."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

import numpy as np
import pandas as pd
import xarray as xr

from pyro_unmix import plot
from pyro_unmix.benchmark.runs import run_all
from pyro_unmix.benchmark.scenes import Entry, about, available
from pyro_unmix.errors import InputError
from pyro_unmix.experiments.tables import FIGURES, write_table
from pyro_unmix.fit import FitConfig
from pyro_unmix.io.files import atomic_path
from pyro_unmix.metrics import Evaluation
from pyro_unmix.scene import Scene

# Of a smoke run: no step more than it takes to pass through every stage, and rows and columns at most.
FEW_STEPS = FitConfig(svi_steps=3, calibration_steps=3, sampling_steps=20)
_FEW_PIXELS = 24


@dataclass(frozen=True)
class Task:
    """One run of an experiment; a subclass adds what it varies.

    `row` says what tells it from other runs, the seed last.
    """

    entry: Entry
    seed: int
    smoke: bool

    def row(self) -> dict:
        raise NotImplementedError

    def scene(self) -> Scene:
        return scene_of(self.entry.make(), self.smoke)


AnyTask = TypeVar("AnyTask", bound=Task)


def scene_of(scene: Scene, smoke: bool) -> Scene:
    """The scene, or every so many rows and columns of it, which keeps its materials, where it is only to be tried."""
    step = -(-max(scene.shape[:2]) // _FEW_PIXELS) if smoke else 1
    return scene.crop(y=slice(None, None, step), x=slice(None, None, step))


def scenes_of(entries: Sequence[Entry], names: Sequence[str] | None, smoke: bool) -> dict[Entry, Scene]:
    """The entries called `names`, with their scenes. None: those whose data are there; one is enough to try it."""
    wanted = chosen(names, [entry.name for entry in entries], "scenes")
    found = available([entry for entry in entries if entry.name in wanted], set(names or []))
    return {entry: scene_of(scene, smoke) for entry, scene in (found[:1] if smoke and names is None else found)}


def chosen(names: Sequence[str] | None, known: Iterable[str], what: str) -> list[str]:
    """Those of `known` that are called `names`, in their own order; None: all. InputError: another name, or none."""
    known = list(known)
    unknown = [name for name in names or [] if name not in known]
    if unknown or names == []:
        raise InputError(f"{what} among {', '.join(known)}", ", ".join(map(repr, unknown)) or "none")
    return [name for name in known if names is None or name in names]


def figures(found: Evaluation, cpu_seconds: float) -> dict:
    """Of one run: its columns in `results.csv`."""
    return {**{name: getattr(found, name) for name in FIGURES if name != "cpu_seconds"}, "cpu_seconds": cpu_seconds}


def timed(unmix: Callable[[], xr.Dataset]) -> tuple[xr.Dataset, float]:
    """A summary, and the seconds of CPU it took."""
    began = time.process_time()
    summary = unmix()
    return summary, time.process_time() - began


def run_experiment(
    out: str | os.PathLike,
    name: str,
    work: Callable[[AnyTask], dict],
    plan: Sequence[AnyTask],
    scenes: dict[Entry, Scene],
    *,
    config: dict,
    notes: Sequence[str],
    lines: Sequence[str],
    colour: str,
    hollow: str | None = None,
    jobs: int,
    timeout: float,
    progress: bool,
) -> pd.DataFrame:
    """Run the plan and write `config.json`, `results.csv`, `table.md` and `NAME.png` into `out`; called again, go on.

    Parameters
    ----------
    work
        The figures of a task, in a process of its own.
    config, notes
        What was asked for, and what a reader of the table must know.
    lines, colour, hollow
        Columns that are the lines, colours and hollow marks of the plot.

    Returns
    -------
    results
        What `results.csv` holds.

    Raises
    ------
    InputError
        No run, job or time, or a folder that holds another experiment.
    """
    if not plan or jobs < 1 or not timeout > 0:
        raise InputError("at least one seed, one job and a positive timeout", f"{len(plan)} runs, {jobs} jobs and {timeout:g} s")
    key = list(plan[0].row())
    results = run_all(
        out, work, plan, lambda task: task.row(), columns=[*key, *FIGURES, "error"], key=key, stage=name, jobs=jobs,
        timeout=timeout, progress=progress,
        config={"experiment": name, "smoke": plan[0].smoke,
                "scenes": {entry.name: about(entry, scene) for entry, scene in scenes.items()},
                "seeds": sorted({task.seed for task in plan}), **config})
    with atomic_path(Path(out) / "table.md") as path:
        path.write_text(write_table(name, results, key[:-1], notes))
    if np.isfinite(results[["rmse", "sad"]].to_numpy(float)).any():
        figure = plot.experiment(results, lines=lines, colour=colour, hollow=hollow)
        with atomic_path(Path(out) / f"{name}.png") as path:
            figure.savefig(path, dpi=150)
    return results
