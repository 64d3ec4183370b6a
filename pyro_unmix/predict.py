"""Unmix a scene strip by strip: it may be larger than memory, and work that was killed goes on."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import warnings
from collections.abc import Iterator
from concurrent.futures import FIRST_COMPLETED, Executor, Future, ThreadPoolExecutor, wait
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from functools import partial
from importlib.metadata import version
from pathlib import Path

import numpy as np
import torch
import xarray as xr

from pyro_unmix.errors import InputError, UnmixWarning
from pyro_unmix.fit import Fit
from pyro_unmix.io import SceneFile
from pyro_unmix.io.files import atomic_path, make_folder
from pyro_unmix.io.summary_files import check_output, write_strips
from pyro_unmix.numerics import one_thread
from pyro_unmix.pieces import Maps
from pyro_unmix.posterior import QUANTILES, Posterior, check_bands
from pyro_unmix.progress import StageProgress
from pyro_unmix.questions import spread_rows
from pyro_unmix.scene import Scene
from pyro_unmix.tiles import Tiling

# Rows of a strip: a whole number of tiles, so that strips are cut where tiles are.
_ROWS = 64
# Each holds a strip; more than these would wait for the disk.
_MOST_THREADS = 4


@one_thread()
def predict(fit: Fit, scene: Scene | SceneFile, path: str | os.PathLike, *, resume: bool = False, progress: bool = True,
            executor: Executor | None = None) -> Path:
    """Write the summary of a scene as `fit.posterior(scene).save(path)` does, strip by strip.

    A strip of rows is read with as much around it as the guide looks at, so that the result is that of the whole scene. Strips
    that are done lie in a hidden folder beside `path` until all are.

    Parameters
    ----------
    fit
        What was learned, from this scene or another of the same sensor.
    scene
        Held in memory, or a file (`open_scene_file`).
    path
        `.nc` or `.zarr`; maps alone: `.tif` or `.hdr` (ENVI).
    resume
        Take over the strips that a run of the same fit and scene has left when it was killed.
    progress
        Show a bar, or lines in a log.
    executor
        Where strips are worked on, such as `dask.distributed.Client(...).get_executor()`; workers must see the files at the same
        paths. None: a thread for every processor.

    Raises
    ------
    InputError
        The scene has other bands than the fit, an extension that is not known, a place that cannot be written to, or strips of
        another fit or scene.
    """
    check_bands(fit, scene)
    path = check_output(path)
    strips = _Strips(fit, scene)
    with _parts_folder(path, strips.digest(), resume) as folder:
        names = [folder / f"{number:06d}.npz" for number in range(strips.number)]
        todo = [number for number, name in enumerate(names) if not name.exists()]
        with ExitStack() as stack, StageProgress(progress) as bar, warnings.catch_warnings():
            warnings.simplefilter("ignore", UnmixWarning)  # what would be said of every strip
            bar.stage("predict", strips.number, strips.number - len(todo))
            workers = min(os.cpu_count() or 1, _MOST_THREADS)
            pool = executor or stack.enter_context(ThreadPoolExecutor(workers))
            for _ in _few_at_a_time(pool, partial(_work, strips), [(number, names[number]) for number in todo], 2 * workers):
                bar.advance()
        write_strips(strips.shared(names), (strips.named(name, number) for number, name in enumerate(names)), path)
    return path


@dataclass(frozen=True)
class _Strips:
    """A scene in strips of rows."""

    fit: Fit
    scene: Scene | SceneFile

    @property
    def number(self) -> int:
        return -(-self.scene.shape[0] // _ROWS)

    @property
    def coords(self) -> xr.Coordinates:
        held = self.scene.reflectance.coords if isinstance(self.scene, Scene) else self.scene.coords
        return xr.Dataset(coords=held).coords

    def rows(self, number: int) -> slice:
        return slice(number * _ROWS, min((number + 1) * _ROWS, self.scene.shape[0]))

    def part(self, rows: slice) -> Scene | None:
        """The scene of some rows; None where no pixel of them is in use."""
        if isinstance(self.scene, SceneFile):
            return self.scene.scene(rows)
        return self.scene.crop(y=rows) if self.scene.mask.values[rows].any() else None

    def maps(self, number: int) -> dict[str, np.ndarray]:
        """What a summary says of a strip, by name."""
        rows, halo = self.rows(number), self.fit.guide.halo
        first = max(rows.start - halo, 0)
        part = self.part(slice(first, min(rows.stop + halo, self.scene.shape[0])))
        core = slice(rows.start - first, rows.stop - first)
        if part is None or not part.mask.values[core].any():
            return self.nothing(rows)
        posterior = _StripPosterior(self.fit, part, core, first)
        named = posterior.named(posterior._maps(QUANTILES))
        return {name: values[:, core] if "quantile" in dims else values[core] for name, (dims, values) in named.items()}

    def nothing(self, rows: slice) -> dict[str, np.ndarray]:
        """Of a strip without a pixel in use."""
        shape = rows.stop - rows.start, self.scene.shape[1], self.fit.model.n_endmembers
        sizes = {"abundance_mean": shape, "abundance_sd": shape, "abundance_quantile": (len(QUANTILES), *shape),
                 "reconstruction_rmse": shape[:2]}
        if self.fit.guide.brightness is not None:
            sizes["brightness_mean"] = shape[:2]
        return {name: np.full(size, np.nan, np.float32) for name, size in sizes.items()}

    def named(self, name: Path, number: int) -> xr.Dataset:
        """Maps in the file of a strip, with their dimensions and coordinates."""
        dims = {2: ("y", "x"), 3: ("y", "x", "endmember"), 4: ("quantile", "y", "x", "endmember")}
        here = xr.Dataset(coords=self.coords).isel(y=self.rows(number)).coords
        with np.load(name, allow_pickle=False) as maps:
            return xr.Dataset({variable: (dims[values.ndim], values) for variable, values in maps.items()},
                              coords={**here, "endmember": list(self.fit.names or ()), "quantile": list(QUANTILES)})

    def shared(self, names: list[Path]) -> xr.Dataset:
        """The summary but for its maps, given the strips."""
        with_data = np.concatenate([np.isfinite(_load(name, "abundance_mean")).any(axis=(1, 2)) for name in names])
        if not with_data.any():
            raise InputError("at least one pixel with data", "none", "check the no-data value of the file")
        rows, use = spread_rows(with_data, self.scene.shape[1]) or (np.arange(len(with_data)), np.ones(len(with_data), bool))
        image = self.scene.reflectance.values[rows] if isinstance(self.scene, Scene) else self.scene.read(_runs(rows))

        def of(name: str) -> np.ndarray:
            return np.concatenate([_load(names[number], name)[rows[rows // _ROWS == number] % _ROWS]
                                   for number in np.unique(rows // _ROWS)]).astype(np.float64)

        mean, sd = of("abundance_mean"), of("abundance_sd")
        brightness = None if self.fit.guide.brightness is None else of("brightness_mean")
        maps = Maps(mean, sd, np.empty((0, *mean.shape)), brightness, None)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", UnmixWarning)  # the file has told what there was to tell
            looked_at = Scene(image, mask=use[:, None] & np.isfinite(mean).all(axis=2), wavelengths=self.scene.wavelengths,
                              name=self.scene.name)
        return Posterior(self.fit, looked_at).shared_summary(self.coords, looked_at, maps)

    def digest(self) -> str:
        """Short name of what is worked on: fit, scene and how it is read."""
        found = hashlib.sha256(f"{version('pyro_unmix')} {self.fit.seed} {self.fit.names} {self.scene.shape}".encode())
        for tensor in [*self.fit.model.state_dict().values(), *self.fit.guide.state_dict().values()]:
            found.update(tensor.cpu().numpy().tobytes())
        if isinstance(self.scene, Scene):
            found.update(self.scene.digest().encode())
        else:
            about = self.scene.path.stat()
            found.update(f"{self.scene.path.resolve()} {about.st_size} {about.st_mtime_ns} {self.scene.scale}".encode())
            found.update(self.scene.bands.tobytes())
        return found.hexdigest()[:16]


class _StripPosterior(Posterior):
    """Of rows `core` of a part of a scene that has `above` rows more above it."""

    def __init__(self, fit: Fit, scene: Scene, core: slice, above: int):
        super().__init__(fit, scene)
        self._core, self._rows_above = core, above

    def _tiling(self, size: int) -> Tiling:
        return Tiling(self.scene, size, self._fit.guide.halo, rows=self._core)


@torch.no_grad()
def _work(strips: _Strips, number: int, name: Path) -> None:
    """Unmix a strip and write it, whole or not at all."""
    with atomic_path(name) as temporary:
        np.savez(temporary, allow_pickle=False, **strips.maps(number))


def _load(name: Path, variable: str) -> np.ndarray:
    with np.load(name, allow_pickle=False) as found:
        return found[variable]


def _runs(rows: np.ndarray) -> list[slice]:
    """Slices of `rows` that follow on each other."""
    return [slice(int(run[0]), int(run[-1]) + 1) for run in np.split(rows, np.flatnonzero(np.diff(rows) != 1) + 1)]


def _few_at_a_time(pool: Executor, work: partial, todo: list[tuple], most: int) -> Iterator[None]:
    """One after the other is done; an error ends it all."""
    waiting, running = iter(todo), set[Future]()
    while True:
        for task in waiting:
            running.add(pool.submit(work, *task))
            if len(running) >= most:
                break
        if not running:
            return
        done, running = wait(running, return_when=FIRST_COMPLETED)
        for each in done:
            each.result()
            yield


def strips_folder(path: Path) -> Path:
    """Where the strips of an output lie until all are done."""
    return path.parent / f".{path.name}.strips"


@contextmanager
def _parts_folder(path: Path, digest: str, resume: bool) -> Iterator[Path]:
    """A folder for strips beside `path`, removed at the end; kept where something goes wrong."""
    folder = strips_folder(path)
    make_folder(path.parent)
    told = folder / "work.json"
    if folder.exists() and not resume:
        shutil.rmtree(folder)
    if told.exists() and json.loads(told.read_text()) != digest:
        raise InputError("strips of this very fit and scene", f"'{folder}' of others", "predict without resume to start again")
    make_folder(folder)
    with atomic_path(told) as temporary:
        temporary.write_text(json.dumps(digest))
    yield folder
    shutil.rmtree(folder)
