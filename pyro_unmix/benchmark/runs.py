"""Many runs into one folder: a row a run, kept as soon as it is there, so that what was killed goes on."""

from __future__ import annotations

import csv
import json
import os
import platform
from collections.abc import Callable, Sequence
from importlib.metadata import version
from pathlib import Path
from typing import TypeVar

import pandas as pd
import torch

from pyro_unmix.benchmark.processes import each_alone
from pyro_unmix.errors import InputError
from pyro_unmix.io.files import atomic_path, make_folder
from pyro_unmix.progress import StageProgress

Task = TypeVar("Task")


def run_all(
    out: str | os.PathLike,
    work: Callable[[Task], dict],
    plan: Sequence[Task],
    describe: Callable[[Task], dict],
    *,
    config: dict,
    columns: Sequence[str],
    key: Sequence[str],
    stage: str,
    jobs: int = 1,
    timeout: float = 1800.0,
    progress: bool = True,
) -> pd.DataFrame:
    """`work(task)` for each task of the plan whose row is not in `results.csv` yet, and all rows in the order of the plan.

    Parameters
    ----------
    out
        Folder of `results.csv` and `config.json`; made if missing.
    describe
        What a row says of its task, beside the figures that `work` gives (or `error`).
    config
        What was asked for; versions and machine are added to it.
    columns, key
        Of the rows; and those of `describe` that tell one task from another.
    stage
        What to call the work while it goes on.
    jobs, timeout
        As in `each_alone`.

    Raises
    ------
    InputError
        A folder that holds runs of another configuration, or cannot be written to.
    """
    path = make_folder(out) / "results.csv"
    _keep_config(path.parent, {"program": "pyro_unmix", **_provenance(), **config, "jobs": jobs, "threads": 1,
                               "timeout_seconds": timeout})

    def key_of(row: dict) -> tuple[str, ...]:
        return tuple(str(row[name]) for name in key)

    rows = {key_of(row): row for row in _read_rows(path)}
    order = [key_of(describe(task)) for task in plan]
    todo = [task for task, own in zip(plan, order, strict=True) if own not in rows]
    with StageProgress(progress) as bar:
        bar.stage(stage, len(plan), done=len(plan) - len(todo))
        for task, figures in each_alone(work, todo, jobs=jobs, timeout=timeout):
            row = {**describe(task), **figures}
            rows[key_of(row)] = row
            _write_rows(path, columns, [rows[own] for own in order if own in rows])
            bar.advance(" ".join([*key_of(row), figures.get("error", "")]))
    return pd.read_csv(path)


def _provenance() -> dict:
    """Versions, and the machine."""
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
        processor = next(line.split(":", 1)[1].strip() for line in lines if line.startswith("model name"))
    except (OSError, StopIteration):
        processor = platform.processor() or platform.machine()
    return {
        "versions": {"python": platform.python_version(),
                     **{name: version(name) for name in ("pyro_unmix", "torch", "pyro-ppl", "numpy", "scipy")}},
        "machine": {"system": platform.platform(), "processor": processor, "cores": os.cpu_count(),
                    "gpu": torch.cuda.get_device_name() if torch.cuda.is_available() else None},
    }


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
        raise InputError("a new folder, or one of the same runs", f"'{out}' with other {', '.join(different)}",
                         "choose a new folder")


def _read_rows(path: Path) -> list[dict]:
    if not path.exists():
        return []
    with path.open(newline="") as file:
        return list(csv.DictReader(file))


def _write_rows(path: Path, columns: Sequence[str], rows: list[dict]) -> None:
    """All of them anew, whole or not at all: a few hundred lines."""
    with atomic_path(path) as temporary, temporary.open("w", newline="") as file:
        writer = csv.DictWriter(file, columns)
        writer.writeheader()
        writer.writerows(rows)
