"""Run the benchmark: every method on every scene with every seed, and write what came of it."""

from __future__ import annotations

import json
import os
import time
from itertools import product
from pathlib import Path

import pandas as pd

from pyro_unmix import plot
from pyro_unmix.benchmark import methods as methods_of
from pyro_unmix.benchmark.processes import peak_memory
from pyro_unmix.benchmark.runs import run_all
from pyro_unmix.benchmark.scenes import Entry, about, available, count_of
from pyro_unmix.benchmark.scenes import choose as choose_scenes
from pyro_unmix.benchmark.tables import write_tables
from pyro_unmix.errors import InputError
from pyro_unmix.io.files import atomic_path
from pyro_unmix.metrics import evaluate

COLUMNS = ["scene", "kind", "group", "n_endmembers", "method", "seed", "rmse", "rmse_unmatched", "sad", "rmse_per_endmember",
           "sad_per_endmember", "coverage_90", "crps", "wall_seconds", "cpu_seconds", "peak_memory_mb", "error"]
Task = tuple[Entry, str, int]


def run_benchmark(
    out: str | os.PathLike,
    *,
    scenes: list[str] | None = None,
    methods: list[str] | None = None,
    seeds: int = 3,
    jobs: int = 1,
    timeout: float = 1800.0,
    fresh: int | None = None,
    progress: bool = True,
) -> pd.DataFrame:
    """Compare methods on scenes whose reference is known, which no method is given.

    Writes `config.json`, `results.csv`, and at the end `table.md` and `benchmark.png` into `out`. Killed, it goes on where it
    stopped when called again with the same arguments.

    Parameters
    ----------
    scenes
        Names, or "real", "simulated", "fresh"; None: all. A scene whose data are missing is left out, unless it was named.
    methods
        Names; None: all.
    seeds
        How many: 0, 1, ...
    jobs
        Runs at once. Seconds are comparable only where it is 1.
    timeout
        Seconds after which one run is stopped; it then counts as failed.
    fresh
        Adds simulated scenes with seeds of their own, reported apart.

    Returns
    -------
    results
        One row for each scene, method and seed: what `results.csv` holds.

    Raises
    ------
    InputError
        An unknown name, a named scene without data, or a folder that holds another benchmark.
    """
    if min(seeds, jobs) < 1 or not timeout > 0:
        raise InputError("at least one seed, one job and a positive timeout", f"{seeds}, {jobs} and {timeout:g}")
    chosen_methods = methods_of.choose(methods)
    with_data = available(choose_scenes(scenes, fresh), set(scenes or []))
    n_endmembers = {entry.name: count_of(scene) for entry, scene in with_data}
    out = Path(out)
    results = run_all(
        out, measure, list(product([entry for entry, _ in with_data], chosen_methods, range(seeds))),
        lambda task: {"scene": task[0].name, "kind": task[0].kind, "group": task[0].group,
                      "n_endmembers": n_endmembers[task[0].name], "method": task[1], "seed": task[2]},
        config={"scenes": {entry.name: about(entry, scene) for entry, scene in with_data}, "methods": chosen_methods,
                "preprocessing": methods_of.PREPROCESSING, "seeds": list(range(seeds))},
        columns=COLUMNS, key=["scene", "method", "seed"], stage="benchmark", jobs=jobs, timeout=timeout, progress=progress)
    with atomic_path(out / "table.md") as path:
        path.write_text(write_tables(results))
    figure = plot.benchmark(results)
    with atomic_path(out / "benchmark.png") as path:
        figure.savefig(path, dpi=150)
    return results


def measure(task: Task) -> dict:
    """One row of the results. Seconds are those of the method alone; memory is what the process took on top of what it had at
    first, the scene included."""
    at_first = peak_memory()
    entry, method, seed = task
    scene = entry.make()
    assert scene.reference is not None  # looked at before
    bare = methods_of.without_reference(scene)
    wall, cpu = time.perf_counter(), time.process_time()
    summary = methods_of.unmix(method, bare, count_of(scene), seed)
    wall, cpu = time.perf_counter() - wall, time.process_time() - cpu
    memory = peak_memory() - at_first
    found = evaluate(summary, scene.reference)
    return {
        "rmse": found.rmse, "rmse_unmatched": found.rmse_unmatched, "sad": found.sad,
        "rmse_per_endmember": json.dumps(found.rmse_per_endmember), "sad_per_endmember": json.dumps(found.sad_per_endmember),
        "coverage_90": found.coverage_90, "crps": found.crps,
        "wall_seconds": wall, "cpu_seconds": cpu, "peak_memory_mb": memory,
    }
