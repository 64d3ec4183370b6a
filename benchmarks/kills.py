"""Processes killed at random moments and run again: nothing half-written is ever seen, and the end is the undisturbed one.

Half of the kills come at any moment of the run, the other half while a file is being written under its temporary name.
"""

from __future__ import annotations

import json
import shutil
import subprocess
import time
import warnings
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
import pandas as pd
import rasterio
import torch
import xarray as xr

from benchmarks.command import ended, must, ran, started

# Of a fit; of a prediction, in each of four formats, a third.
KILLS = 24
# A run of seconds, most of them with a checkpoint at every second step.
QUICK = """svi_steps = 20
calibration_steps = 20
sampling_steps = 60
kl_warmup_steps = 5
checkpoint_every = 2
tile_size = 8
device = "cpu"
"""


def of_fit(folder: Path, seed: int) -> Iterator[dict]:
    """A fit with draws, gone on with `--resume`."""
    make_run(folder)
    yield killed("fit", [*fit_arguments(folder), "--draws", 20], "--out", Path("run"), folder, KILLS, seed, writes=27)


def of_predict(folder: Path, seed: int) -> Iterator[dict]:
    """Predictions in every format; gone on with where the command can, else run again."""
    make_run(folder)
    must(*fit_arguments(folder), "--out", folder / "fitted")
    must("simulate", "linear", "--rows", 300, "--cols", 12, "--bands", 20, "-k", 3, "--out", folder / "strips.npz")
    arguments = ["predict", folder / "fitted", folder / "strips.npz"]
    for number, ending in enumerate((".nc", ".zarr", ".tif", ".hdr")):
        yield killed(f"predict {ending}", arguments, "--out", Path(f"out/maps{ending}"), folder, KILLS // 3, seed + number)


def make_run(folder: Path) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "quick.toml").write_text(QUICK)
    must("simulate", "linear", "--rows", 12, "--cols", 12, "--bands", 20, "-k", 3, "--out", folder / "scene.npz")


def fit_arguments(folder: Path) -> list:
    return ["fit", folder / "scene.npz", "-k", 3, "--guide", "mlp", "--config", folder / "quick.toml"]


def killed(case: str, arguments: Sequence, option: str, out: Path, folder: Path, kills: int, seed: int,
           writes: int = 1) -> dict:
    """Kill so many runs that write to `out`, go on with each until it is done, and compare with one that nothing disturbed.

    An undisturbed run writes about `writes` files, checkpoints included.
    """
    random = np.random.default_rng(seed)
    for before in (folder / "whole", folder / "killed"):
        shutil.rmtree(before, ignore_errors=True)
    began = time.monotonic()
    must(*arguments, option, folder / "whole" / out)
    seconds = time.monotonic() - began
    whole, there = folder / "whole" / out, folder / "killed" / out
    seen_in = there if not there.suffix else there.parent
    resume = ["--resume"] if "--resume" in ran(arguments[0], "--help").out else []
    count, ends, writing, faults = 0, 0, 0, []
    while count < kills or there.parent.exists():
        process = started(*arguments, option, there, *resume)
        if count < kills:
            writing += _kill(process, seen_in, random, seconds if count % 2 == 0 else None, writes)
        done = ended(process)
        if done.code == -9:
            count += 1
            faults += half_written(seen_in)
        elif done.code == 0:
            ends += 1
            faults += different(whole, there)
            shutil.rmtree(folder / "killed")
        else:
            faults.append(done.err.strip())
            break
    return {"case": f"kill -9 of {case}", "count": count, "code": "-9, then 0", "outcome":
            "; ".join(dict.fromkeys(faults)) if faults else
            f"all {ends} runs that came to the end came to the undisturbed one; {writing} kills while a file was being written"}


def half_written(folder: Path) -> list[str]:
    """What in a folder cannot be opened whole under its final name."""
    found = []
    for path in sorted(folder.iterdir()) if folder.exists() else ():
        if not path.name.startswith(".") and (path.is_file() or path.suffix == ".zarr"):
            try:
                contents(path)
            except Exception as error:  # whatever a damaged file leads its reader to
                found.append(f"'{path.name}' is half written ({type(error).__name__})")
    return found


def contents(path: Path) -> object:
    """All that is in a file, read to its end; of a summary, the dataset."""
    if path.suffix == ".nc":
        groups = [None] if path.name != "draws.nc" else ["posterior", "observed_data"]
        return xr.merge([xr.load_dataset(path, group=group, engine="h5netcdf") for group in groups])
    if path.suffix == ".zarr":
        with xr.open_zarr(path) as store:
            return store.load()
    if path.suffix in (".tif", ".hdr", ".img"):
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", rasterio.errors.NotGeoreferencedWarning)
            file = rasterio.open(path.with_suffix(".img") if path.suffix == ".hdr" else path)
        with file:
            return xr.Dataset({"maps": (("band", "y", "x"), file.read())})
    if path.suffix == ".pt":
        return torch.load(path, weights_only=True)
    if path.suffix == ".html":
        assert path.read_text().rstrip().endswith("</html>")
        return None
    return {".json": lambda: json.loads(path.read_text()), ".csv": lambda: pd.read_csv(path)}[path.suffix]()


def different(whole: Path, there: Path) -> list[str]:
    """How a result that was killed on the way differs from one that was not: names of files, and values."""
    one, other = (path.parent if path.suffix else path for path in (whole, there))
    names = [sorted(path.name for path in folder.iterdir()) for folder in (one, other)]
    if names[0] != names[1]:
        return [f"there are {', '.join(names[1])} in place of {', '.join(names[0])}"]
    found = []
    for name in names[0]:
        wanted, came = contents(one / name), contents(other / name)
        if isinstance(wanted, xr.Dataset) and not wanted.equals(came):
            found.append(f"'{name}' differs")
    return found


def _kill(process: subprocess.Popen, folder: Path, random: np.random.Generator, seconds: float | None, writes: int) -> bool:
    """Kill it at any moment of so many seconds, or as it writes one of its files, if it has not ended before; whether a temporary
    name was there."""
    end = time.monotonic() + (np.inf if seconds is None else random.uniform(0.0, 1.1 * seconds))
    wanted = random.integers(1, writes + 1) if seconds is None else np.inf
    seen, there = 0, set[str]()
    while process.poll() is None and time.monotonic() < end and seen < wanted:
        now = {path.name for path in folder.iterdir() if path.name.startswith(".")} if folder.exists() else set()
        seen, there = seen + len(now - there), now
        time.sleep(0.0005)
    if seen >= wanted:
        time.sleep(random.uniform(0.0, 0.02))  # somewhere in the writing of it
    process.kill()
    return bool(there)
