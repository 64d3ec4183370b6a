"""Blind methods side by side on whole scenes: what two experiments have in common."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from itertools import product

import pandas as pd

from pyro_unmix.benchmark import methods as methods_of
from pyro_unmix.benchmark.scenes import Entry, count_of
from pyro_unmix.experiments.run import FEW_STEPS, Task, figures, run_experiment, scenes_of, timed
from pyro_unmix.fit import FitConfig, fit
from pyro_unmix.guide import ENCODERS
from pyro_unmix.metrics import evaluate
from pyro_unmix.model import UnmixingModel

_TIMEOUT = 3600.0


@dataclass(frozen=True)
class ComparisonTask(Task):
    """One method on one scene."""

    method: str

    def row(self) -> dict:
        return {"scene": self.entry.name, "method": self.method, "seed": self.seed}


def compare(
    out: str | os.PathLike, name: str, entries: Sequence[Entry], methods: Sequence[str], *,
    seeds: int, jobs: int, smoke: bool, progress: bool,
) -> pd.DataFrame:
    """Every method on every scene whose data are there, into `out`, as in `run_experiment`.

    `methods`: those of the benchmark, and fits by the name of their encoder.
    """
    found = scenes_of(entries, None, smoke)
    plan = [ComparisonTask(entry, seed, smoke, method)
            for seed, entry, method in product(range(1 if smoke else seeds), found, methods)]
    return run_experiment(
        out, name, measure, plan, found, jobs=jobs, timeout=_TIMEOUT, progress=progress,
        config={"methods": list(methods), "fit": asdict(_config(smoke))},
        notes=["Blind, the whole scene scored, amplitude matched to that of the reference.",
               f"{', '.join(ENCODERS)}: `fit` with that encoder; start: where its training begins."],
        lines=["scene"], colour="method")


def measure(task: ComparisonTask) -> dict:
    """The figures of one method on one scene."""
    scene = task.scene()
    assert scene.reference is not None  # looked at before
    bare, k = methods_of.without_reference(scene), count_of(scene)
    if task.method in ENCODERS:
        summary, seconds = timed(lambda: fit(UnmixingModel(k), bare, guide=task.method, seed=task.seed, progress=False,
                                             config=_config(task.smoke)).posterior(bare).summary())
    else:
        summary, seconds = timed(lambda: methods_of.unmix(task.method, bare, k, task.seed))
    return figures(evaluate(summary, scene.reference), seconds)


def _config(smoke: bool) -> FitConfig:
    return FEW_STEPS if smoke else FitConfig()
