"""Disks that are full or read-only, places that are taken, and input that is cut short, also while it is being read."""

from __future__ import annotations

import os
import shutil
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np

import pyro_unmix as pu
from benchmarks.command import COMMAND, Ended, ended, must, ran, row, started
from benchmarks.inputs import files_of, write_all
from benchmarks.kills import fit_arguments, half_written, make_run

_ENDINGS = (".nc", ".zarr", ".tif", ".hdr")
_LIMIT = "import resource, sys; resource.setrlimit(resource.RLIMIT_FSIZE, ({0}, {0})); "


def of_output(folder: Path, seed: int) -> Iterator[dict]:
    """Commands that write, where they cannot."""
    make_run(folder)
    fitted, scene = folder / "fitted", folder / "scene.npz"
    must(*fit_arguments(folder), "--out", fitted)
    fit = [*fit_arguments(folder), "--draws", 20, "--out"]
    predict = ["predict", fitted, scene, "--out"]
    simulate = ["simulate", "linear", "--rows", 12, "--cols", 12, "--bands", 20, "--out"]

    def outputs(place: Path) -> dict[str, list]:
        return {"fit": [*fit, place / "run"], **{f"predict {ending}": [*predict, place / f"maps{ending}"] for ending in _ENDINGS},
                "simulate": [*simulate, place / "scene.npz"]}

    for what in outputs(folder):
        tries = []
        for size in (8, 100, 200, 300, 400, 500) if what == "fit" else (4, 12):
            with small_disk(folder / "disk", size) as place:
                tries.append((ran(*outputs(place)[what]), left(place)))
        yield row(f"disk full: {what}", tries)
    tries = []
    for size in (2_000, 20_000, 60_000, 200_000):
        place = folder / f"limit{size}"
        command = [COMMAND[0], "-c", _LIMIT.format(size) + COMMAND[2]]
        tries.append((ended(started(*fit, place / "run", command=command)), left(place)))
    yield row("files may not grow: fit", tries)
    with small_disk(folder / "disk", 1024) as place:
        shutil.copytree(fitted, place / "fitted")
        subprocess.run(["mount", "-o", "remount,ro", place], check=True)
        yield row("read-only disk", [*((ran(*arguments), []) for arguments in outputs(place).values()),
                                     (ran("report", place / "fitted"), [])])
    taken = folder / "taken"
    names = [*(f"maps{ending}" for ending in _ENDINGS), "maps.img", "scene.npz"]
    for name in names:
        (taken / name).mkdir(parents=True, exist_ok=True)
        (taken / name / "kept").touch()
    (taken / "run").touch()
    tries = [(ran(*arguments), []) for arguments in outputs(taken).values()]
    kept = sorted(str(path.relative_to(taken)) for path in taken.rglob("*"))
    lost = [f"{name} is lost" for name in [*(f"{name}/kept" for name in names), "run"] if name not in kept]
    yield row("a folder in the place of the file, a file in that of the folder", [*tries[:-1], (tries[-1][0], lost)])


def of_input(folder: Path, seed: int) -> Iterator[dict]:
    """Scenes cut short before and while they are read."""
    random = np.random.default_rng(seed)
    scene = pu.simulate_scene(3, (24, 24), n_bands=40, seed=seed)
    for name, path in write_all(scene, folder / "small").items():
        tries = []
        for file in files_of(path):
            whole = file.read_bytes()
            for length in random.integers(0, len(whole), 3 if len(files_of(path)) == 1 else 1):
                file.write_bytes(whole[:length])
                tries.append((ran("info", path), []))
            file.write_bytes(whole)
        yield row(f"cut short: {name}", tries)
        if path.is_dir():
            told = notes(ran("info", path))
            yield row("a chunk is missing: Zarr", [without(file, path, told) for file in files_of(path) if "c" in file.parts])
    large = pu.Scene(random.random((700, 500, 60), np.float32), wavelengths=np.linspace(400, 2400, 60))
    for name, path in write_all(large, folder / "large").items():
        right = must("info", path).out
        tries = [cut_while_read(path, random) for _ in range(3)]
        yield row(f"cut short while it is read: {name}",
                  [(done, ["a wrong result"] if done.code == 0 and done.out != right else []) for done in tries])
    shutil.rmtree(folder / "large")


def without(file: Path, path: Path, told: int) -> tuple[Ended, list[str]]:
    """`info` of a store of which a file is missing, there again at the end; whole, it has so many notes `told`."""
    whole = file.read_bytes()
    file.unlink()
    done = ran("info", path)
    file.write_bytes(whole)
    return done, [] if done.code == 2 or notes(done) > told else ["a gap is not told"]


def notes(done: Ended) -> int:
    return sum(line.split()[:1] == ["note"] for line in done.out.splitlines())


def cut_while_read(path: Path, random: np.random.Generator) -> Ended:
    """`info`, of a file that is cut within 30 ms after it has been opened, and is whole again at the end."""
    chosen = max(files_of(path), key=lambda file: file.stat().st_size)
    whole = chosen.read_bytes()
    process = started("info", path)
    while process.poll() is None and not _opened(process.pid, {str(file) for file in files_of(path)}):
        time.sleep(0.0005)
    time.sleep(random.uniform(0.0, 0.03))
    os.truncate(chosen, int(random.integers(0, len(whole))))
    done = ended(process)
    chosen.write_bytes(whole)
    return done


@contextmanager
def small_disk(place: Path, kilobytes: int) -> Iterator[Path]:
    """A disk of so many kilobytes, in memory; only root may mount one."""
    place.mkdir(exist_ok=True)
    subprocess.run(["mount", "-t", "tmpfs", "-o", f"size={kilobytes}k", "tmpfs", place], check=True)
    try:
        yield place
    finally:
        subprocess.run(["umount", place], check=True)


def left(place: Path) -> list[str]:
    """What a command that failed should not have left in a place: files half written, or of a temporary name."""
    folders = [place, *(path for path in place.rglob("*") if path.is_dir() and path.suffix != ".zarr")] if place.exists() else []
    hidden = [path.name for folder in folders for path in folder.iterdir() if path.name.startswith(".")]
    files = [fault for folder in folders for fault in half_written(folder)]
    return [*files, *(f"'{name}' is left" for name in hidden)]


def _opened(process: int, names: set[str]) -> bool:
    try:
        return any(os.path.realpath(f"/proc/{process}/fd/{each}") in names for each in os.listdir(f"/proc/{process}/fd"))
    except OSError:
        return False
