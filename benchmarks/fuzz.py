"""Damaged files in every reader: `python -m benchmarks.fuzz --cases 10000 --seed 0`.

Real files lose, gain and change bytes, archives within their members, and JSON changes its values. Whatever comes of it is
opened, or refused by one line of `InputError`: no other exception, no crash, no more memory than `MOST_MEMORY`, none that takes
longer than `LIMIT` seconds.
"""

from __future__ import annotations

import argparse
import contextlib
import io
import json
import logging
import resource
import shutil
import sys
import tempfile
import time
import warnings
import zipfile
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pandas as pd
import scipy.io

import pyro_unmix as pu
from benchmarks.inputs import files_of, write_all
from pyro_unmix import cli
from pyro_unmix.benchmark.processes import each_alone, peak_memory
from pyro_unmix.errors import InputError, UnmixWarning
from pyro_unmix.report import write_report
from pyro_unmix.run_folder import load_fit, save_run

LIMIT, MOST_MEMORY, TOGETHER = 20.0, 6 * 2**30, 100
_REPORTED = ("summary.nc", "pixels.nc", "history.csv", "config.json")
_TEXT = b"0123456789-{},=."
_ODD = (None, True, -1, 0, 3, 10**6, 10**30, 1e308, float("nan"), "", "x", "\ud800", "../../etc", [], {}, [[]],
        {"class": "Linear"})


class Reader(NamedTuple):
    """What reads, the file or folder it is given, and the files of it to damage; `share` of the cases that others have."""

    read: Callable[[Path], object]
    path: Path
    files: list[Path]
    share: float = 1.0


class Task(NamedTuple):
    reader: str
    folder: Path
    seed: int
    numbers: tuple[int, ...]


def readers(folder: Path) -> dict[str, Reader]:
    """By name, of the files that `prepare` has made in a folder or that were copied there."""
    names = {"npz": "scene.npz", "MATLAB 5": "v5.mat", "MATLAB 7.3": "v73.mat", "NetCDF 4": "four.nc", "NetCDF 3": "three.nc",
             "Zarr": "store.zarr", "ENVI": "image.hdr", "GeoTIFF": "image.tif"}
    scenes = {name: Reader(pu.open_scene, folder / file, files_of(folder / file)) for name, file in names.items()}
    libraries = {f"library {file}": Reader(pu.open_library, folder / file, [folder / file])
                 for file in ("library.npz", "library.mat", "library.csv")}
    sli = Reader(pu.open_library, folder / "library.hdr", [folder / "library.hdr", folder / "library.sli"])
    run = folder / "run"
    parts = {f"run folder: {file}": Reader(load_fit, run, [run / file]) for file in ("config.json", "weights.pt", "history.csv")}
    summary = run / "summary.nc"
    return scenes | libraries | {"library ENVI": sli} | parts | {
        "evaluate summary.nc": Reader(partial(evaluated, folder / "scene.npz"), summary, [summary]),
        "report": Reader(write_report, run, [run / file for file in _REPORTED], share=0.05)}


def evaluated(reference: Path, summary: Path) -> None:
    with contextlib.redirect_stdout(io.StringIO()):
        cli.evaluate(summary, str(reference), as_json=True)


def prepare(folder: Path) -> None:
    """Small whole files for every reader."""
    scene = pu.simulate_scene(3, (7, 5), n_bands=12, seed=0)
    assert scene.reference is not None and scene.wavelengths is not None
    header = write_all(scene, folder)["ENVI"]
    listed = ", ".join(f"{wavelength:g}" for wavelength in scene.wavelengths)
    with open(header, "a") as file:
        file.write(f"wavelength units = Nanometers\nwavelength = {{{listed}}}\nfwhm = {{{', '.join(['9'] * 12)}}}\n"
                   f"bbl = {{{', '.join(['1'] * 12)}}}\nreflectance scale factor = 1\n"
                   "map info = {UTM, 1, 1, 366975, 5808045, 30, 30, 33, North, WGS-84}\n")
    spectra, names = scene.reference.endmembers.values, ["oak", "soil", "grey"]
    np.savez(folder / "library.npz", spectra=spectra, names=names, wavelengths=scene.wavelengths)
    table = np.column_stack([scene.wavelengths / 1000, np.full(12, 0.01), np.arange(12), spectra.T])
    scipy.io.savemat(folder / "library.mat", {"datalib": table, "names": np.array(["w", "r", "c", *names])})
    pd.DataFrame(spectra, index=names, columns=scene.wavelengths).to_csv(folder / "library.csv", index_label="name")
    spectra.astype("<f4").tofile(folder / "library.sli")
    (folder / "library.hdr").write_text(
        f"ENVI\nfile type = ENVI Spectral Library\nsamples = 12\nlines = 3\nbands = 1\ndata type = 4\nbyte order = 0\n"
        f"wavelength units = Nanometers\nwavelength = {{{listed}}}\nspectra names = {{{', '.join(names)}}}\n")
    config = pu.FitConfig(svi_steps=2, calibration_steps=2, sampling_steps=20, device="cpu")
    fit = pu.fit(pu.UnmixingModel(3), scene, guide="mlp", config=config, progress=False)
    save_run(folder / "run", fit, fit.posterior(scene))


def damage(content: bytes, random: np.random.Generator) -> bytes:
    """A few bytes of it changed, more often in the first 700, where headers are; some of it cut off or replaced by text."""
    found = bytearray(content)
    bytes_to_write = _TEXT if random.random() < 0.5 else range(256)
    for _ in range(random.integers(1, 7)):
        if found:
            place = random.integers(len(found) if random.random() < 0.5 else min(len(found), 700))
            found[place] = bytes_to_write[random.integers(len(bytes_to_write))]
    if random.random() < 0.1:
        del found[random.integers(len(found) + 1):]
    if random.random() < 0.1 and len(found) > 20:
        start = random.integers(len(found) - 10)
        found[start : start + random.integers(1, 9)] = random.choice(list(_TEXT), random.integers(13)).astype(np.uint8).tobytes()
    return bytes(found)


def damage_archive(content: bytes, random: np.random.Generator) -> bytes:
    """One member of it damaged, under a checksum that is right."""
    made = io.BytesIO()
    with zipfile.ZipFile(io.BytesIO(content)) as whole, zipfile.ZipFile(made, "w") as file:
        names = whole.namelist()
        chosen = names[random.integers(len(names))]
        for name in names:
            file.writestr(name, damage(whole.read(name), random) if name == chosen else whole.read(name))
    return made.getvalue()


def damage_json(content: bytes, random: np.random.Generator) -> bytes:
    """One of its values, at any depth, exchanged for an odd one."""
    whole = {"": json.loads(content)}
    places = [(whole, ""), *_places(whole[""])]
    parent, key = places[random.integers(len(places))]
    parent[key] = _ODD[random.integers(len(_ODD))]
    return json.dumps(whole[""]).encode()


_DAMAGES = {".json": damage_json, ".npz": damage_archive, ".pt": damage_archive}


def _places(value: object) -> Iterator[tuple]:
    pairs = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for key, member in pairs:
        yield value, key
        yield from _places(member)


def batch(task: Task) -> dict:
    """Outcomes of some cases, each known by its number."""
    resource.setrlimit(resource.RLIMIT_AS, (MOST_MEMORY, MOST_MEMORY))
    logging.disable(logging.CRITICAL)
    sys.unraisablehook = lambda found: None  # as on the command line
    slowest, outcomes = 0.0, []
    with tempfile.TemporaryDirectory() as name:
        shutil.copytree(task.folder, name, dirs_exist_ok=True)
        reader = readers(Path(name))[task.reader]
        for number in task.numbers:
            random = np.random.default_rng([task.seed, number])
            file = reader.files[random.integers(len(reader.files))]
            whole = file.read_bytes()
            special = _DAMAGES.get(file.suffix, damage)
            file.write_bytes((special if random.random() < 0.7 else damage)(whole, random))
            began = time.perf_counter()
            outcomes.append(outcome(partial(reader.read, reader.path)))
            slowest = max(slowest, time.perf_counter() - began)
            file.write_bytes(whole)
    return {"outcomes": outcomes, "slowest": slowest, "memory": peak_memory()}


def outcome(read: Callable[[], object]) -> str:
    """"opened", "refused", or what else came of it."""
    try:
        read()
        return "opened"
    except InputError as error:
        if "\n" in str(error):
            return f"more than a line: {error}"
        causes = list(_causes(error))
        return f"too much memory: {error}" if any(isinstance(cause, MemoryError) for cause in causes) else "refused"
    except Exception as error:
        return " ".join(f"{type(error).__name__}: {error}".split())[:200]


def _causes(error: BaseException | None) -> Iterator[BaseException]:
    while error is not None:
        yield error
        error = error.__cause__ or error.__context__


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--cases", type=int, default=10_000)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--jobs", type=int, default=1)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        prepare(folder)
        known = readers(folder)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", UnmixWarning)
            for reader in known.values():
                reader.read(reader.path)  # as long as it is whole
        each = options.cases / sum(reader.share for reader in known.values())
        tasks = [Task(reader, folder, options.seed, tuple(range(first, min(first + TOGETHER, round(each * about.share)))))
                 for reader, about in known.items() for first in range(0, round(each * about.share), TOGETHER)]
        rows: list[dict] = []
        while tasks:
            again: list[Task] = []
            limit = LIMIT * max(len(task.numbers) for task in tasks) ** 0.5
            for task, result in each_alone(batch, tasks, jobs=options.jobs, timeout=limit):
                if "error" in result and len(task.numbers) > 1:  # which of them it was is found one by one
                    again += [task._replace(numbers=(number,)) for number in task.numbers]
                    continue
                for number, came in zip(task.numbers, result.get("outcomes", [result.get("error")]), strict=True):
                    rows.append({"reader": task.reader, "outcome": came if came in ("opened", "refused") else "other",
                                 "slowest": result.get("slowest", LIMIT), "memory": result.get("memory", np.nan)})
                    if rows[-1]["outcome"] == "other":
                        print(f"{task.reader}, case {number}: {came}", flush=True)
            tasks = again
    table = pd.DataFrame(rows)
    counts = table.pivot_table(index="reader", columns="outcome", values="slowest", aggfunc="size", fill_value=0, sort=False)
    figures = table.groupby("reader", sort=False).agg(seconds=("slowest", "max"), memory_MB=("memory", "max")).round(1)
    print(counts.reindex(columns=["opened", "refused", "other"], fill_value=0).join(figures).to_csv(sep="|"))


if __name__ == "__main__":
    main()
