"""Run the benchmark: every method on every scene with every seed, and write what came of it."""

from __future__ import annotations

import csv
import json
import logging
import os
import platform
import time
from importlib.metadata import version
from itertools import product
from pathlib import Path

import pandas as pd
import torch

from pyro_unmix import plot
from pyro_unmix.benchmark import methods as methods_of
from pyro_unmix.benchmark.processes import each_alone, peak_memory
from pyro_unmix.benchmark.scenes import Entry
from pyro_unmix.benchmark.scenes import choose as choose_scenes
from pyro_unmix.benchmark.tables import write_tables
from pyro_unmix.errors import InputError
from pyro_unmix.io.files import atomic_path, make_folder
from pyro_unmix.metrics import evaluate
from pyro_unmix.progress import StageProgress
from pyro_unmix.scene import Scene

log = logging.getLogger("pyro_unmix")

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
    available = _available(choose_scenes(scenes, fresh), set(scenes or []))
    out = make_folder(out)
    _keep_config(out, {
        "program": "pyro_unmix",
        "versions": {"python": platform.python_version(),
                     **{name: version(name) for name in ("pyro_unmix", "torch", "pyro-ppl", "numpy", "scipy")}},
        "machine": _machine(),
        "scenes": {entry.name: {"kind": entry.kind, "rows, columns, bands": list(scene.shape), "pixels": scene.n_pixels,
                                "endmembers": _n_endmembers(scene), "made by": entry.recipe}
                   for entry, scene in available},
        "methods": chosen_methods,
        "preprocessing": methods_of.PREPROCESSING,
        "seeds": list(range(seeds)),
        "jobs": jobs,
        "threads": 1,
        "timeout_seconds": timeout,
    })
    n_endmembers = {entry.name: _n_endmembers(scene) for entry, scene in available}
    plan: list[Task] = list(product([entry for entry, _ in available], chosen_methods, range(seeds)))
    rows = _read_rows(out / "results.csv")
    todo = [task for task in plan if _key(task) not in rows]
    with StageProgress(progress) as bar:
        bar.stage("benchmark", len(plan), done=len(plan) - len(todo))
        for task, figures in each_alone(measure, todo, jobs=jobs, timeout=timeout):
            entry, method, seed = task
            rows[_key(task)] = {"scene": entry.name, "kind": entry.kind, "group": entry.group,
                                "n_endmembers": n_endmembers[entry.name], "method": method, "seed": seed, **figures}
            _write_rows(out / "results.csv", [rows[_key(t)] for t in plan if _key(t) in rows])
            bar.advance(f"{entry.name} {method} {figures.get('error', '')}")
    results = pd.read_csv(out / "results.csv")
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
    summary = methods_of.unmix(method, bare, _n_endmembers(scene), seed)
    wall, cpu = time.perf_counter() - wall, time.process_time() - cpu
    memory = peak_memory() - at_first
    found = evaluate(summary, scene.reference)
    return {
        "rmse": found.rmse, "rmse_unmatched": found.rmse_unmatched, "sad": found.sad,
        "rmse_per_endmember": json.dumps(found.rmse_per_endmember), "sad_per_endmember": json.dumps(found.sad_per_endmember),
        "coverage_90": found.coverage_90, "crps": found.crps,
        "wall_seconds": wall, "cpu_seconds": cpu, "peak_memory_mb": memory,
    }


def _available(entries: list[Entry], named: set[str]) -> list[tuple[Entry, Scene]]:
    """Entries with their scenes; those without data are left out with a line that says so."""
    available = []
    for entry in entries:
        try:
            available.append((entry, entry.make()))
        except InputError as error:
            if entry.name in named:
                raise
            log.info("left out %s: %s", entry.name, error)
    if not available:
        raise InputError("at least one scene with data", "none")
    return available


def _n_endmembers(scene: Scene) -> int:
    assert scene.reference is not None  # every scene of the benchmark has one
    return scene.reference.sizes["endmember"]


def _machine() -> dict:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
        processor = next(line.split(":", 1)[1].strip() for line in lines if line.startswith("model name"))
    except (OSError, StopIteration):
        processor = platform.processor() or platform.machine()
    return {"system": platform.platform(), "processor": processor, "cores": os.cpu_count(),
            "gpu": torch.cuda.get_device_name() if torch.cuda.is_available() else None}


def _keep_config(out: Path, config: dict) -> None:
    """Write the configuration, or make sure that what is in the folder was run with the same."""
    path = out / "config.json"
    if not path.exists() and not (out / "results.csv").exists():
        with atomic_path(path) as temporary:
            temporary.write_text(json.dumps(config, indent=2) + "\n")
        return
    try:
        before = json.loads(path.read_text())
        different = [name for name in config if before.get(name) != config[name]]
    except (OSError, ValueError, AttributeError) as error:
        raise InputError("a readable config.json", f"none in '{out}'", "choose a new folder") from error
    if different:
        raise InputError("a new folder, or one of the same benchmark", f"'{out}' with other {', '.join(different)}",
                         "choose a new folder")


def _key(task: Task) -> tuple[str, str, str]:
    entry, method, seed = task
    return entry.name, method, str(seed)


def _read_rows(path: Path) -> dict[tuple[str, str, str], dict]:
    if not path.exists():
        return {}
    with path.open(newline="") as file:
        return {(row["scene"], row["method"], row["seed"]): row for row in csv.DictReader(file)}


def _write_rows(path: Path, rows: list[dict]) -> None:
    """All of them anew, whole or not at all: a few hundred lines."""
    with atomic_path(path) as temporary, temporary.open("w", newline="") as file:
        writer = csv.DictWriter(file, COLUMNS)
        writer.writeheader()
        writer.writerows(rows)
