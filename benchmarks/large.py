"""`python -m benchmarks.large --folder DIR`: scenes larger than memory, and what a point estimate costs on the same files.

A granule of 1280 x 1242 pixels and 285 bands (1.8 GB of float32, ENVI, UTM) is made in DIR, and scenes of 50 bands with `--sizes`
pixels. A guide is fitted to a corner. Then, each in a process of its own: `pyro-unmix predict` (mean, standard deviation, five
quantiles), of the granule also killed half way and resumed; and what one would take for a point estimate: fully constrained least
squares of the same strips with the same endmembers, exact over all faces of the simplex, by alternating directions, and pixel by
pixel. All write GeoTIFF; that of `predict` is cloud optimised. Seconds and pixels a second of the whole process and of its strips
alone, which are read, unmixed and kept, and the most memory that was resident.
"""

from __future__ import annotations

import argparse
import itertools
import math
import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pandas as pd
import rasterio
import torch
import xarray as xr
from scipy import optimize

import pyro_unmix as pu
from pyro_unmix.baselines.fcls import fcls
from pyro_unmix.run_folder import save_fit
from pyro_unmix.simulate import absorption_spectra, dirichlet_field

K, NOISE, STRIP, COLS = 5, 0.01, 64, 1242


def abundances(rows: int) -> Iterator[np.ndarray]:
    """`(rows, columns, K)`, strip by strip."""
    field = dirichlet_field(STRIP, COLS, np.ones(K), 4.0, np.random.default_rng(0))
    return (np.roll(field, first // STRIP, axis=2)[: rows - first] for first in range(0, rows, STRIP))


def truth(rows: int, n_bands: int) -> xr.Dataset:
    """As `Scene.reference`."""
    wavelengths = np.linspace(400.0, 2500.0, n_bands).round(2)
    return xr.Dataset({"abundances": (("y", "x", "endmember"), np.concatenate(list(abundances(rows)))),
                       "endmembers": (("endmember", "wavelength"), absorption_spectra(K, wavelengths, 0))},
                      coords={"endmember": [f"material {k}" for k in range(K)], "wavelength": wavelengths})


def make(folder: Path, name: str, rows: int, n_bands: int) -> Path:
    """An ENVI file, strip by strip: one strip of smooth abundances, whose materials change places from strip to strip."""
    header, wavelengths, random = folder / f"{name}.hdr", np.linspace(400.0, 2500.0, n_bands), np.random.default_rng(1)
    if header.exists():
        return header
    spectra = absorption_spectra(K, wavelengths, 0)
    with open(folder / f"{name}.img", "wb") as file:
        for z in abundances(rows):
            values = (z @ spectra + NOISE * random.standard_normal((*z.shape[:2], n_bands), np.float32)).astype(np.float32)
            values.transpose(0, 2, 1).tofile(file)
    listed = ", ".join(f"{each:.2f}" for each in wavelengths)
    header.write_text(f"ENVI\nsamples = {COLS}\nlines = {rows}\nbands = {n_bands}\nheader offset = 0\nfile type = ENVI Standard\n"
                      f"data type = 4\ninterleave = bil\nbyte order = 0\nwavelength units = Nanometers\n"
                      f"wavelength = {{{listed}}}\nmap info = {{UTM, 1, 1, 366975, 5808045, 30, 30, 33, North, WGS-84}}\n")
    return header


def exact(pixels: torch.Tensor, endmembers: torch.Tensor) -> torch.Tensor:
    """Fully constrained least squares `(n, K)`: of the optima on all faces of the simplex that lie on them, the best."""
    # Seen from the middle more digits count. What is added keeps the matrix regular, and abundances sum to one: nothing changes.
    apart = endmembers - endmembers.mean(dim=0)
    gram, target = (apart @ apart.T).double(), ((pixels - endmembers.mean(dim=0)) @ apart.T).double()
    gram = gram + gram.trace() / K
    best = torch.full((len(pixels),), torch.inf, dtype=torch.float64)
    found = torch.zeros_like(target)
    for face in (list(each) for n in range(1, K + 1) for each in itertools.combinations(range(K), n)):
        inverse = torch.linalg.inv(gram[face][:, face])
        gain = inverse.sum(dim=0) / inverse.sum()
        z = target[:, face] @ (inverse - torch.outer(inverse.sum(dim=0), gain)) + gain
        error = ((z @ gram[face][:, face] - 2 * target[:, face]) * z).sum(dim=1)
        better = (z >= 0).all(dim=1) & (error < best)
        best = torch.where(better, error, best)
        found[better] = 0.0
        found[better.nonzero(), torch.tensor(face)] = z[better]
    return found.float()


def admm(pixels: torch.Tensor, endmembers: torch.Tensor) -> torch.Tensor:
    """Fully constrained least squares by the splitting of SUnSAL (Bioucas-Dias and Figueiredo 2010), to its end."""
    return fcls(pixels, endmembers)


def one_by_one(pixels: torch.Tensor, endmembers: torch.Tensor) -> torch.Tensor:
    """Pixel by pixel with SciPy's `nnls`; that abundances sum to one is a further band (Heinz and Chang 2001, eq. 18)."""
    weight = 10.0 * float(endmembers.norm())
    matrix = np.vstack([endmembers.double().numpy().T, np.full(K, weight)])
    rows = np.hstack([pixels.double().numpy(), np.full((len(pixels), 1), weight)])
    return torch.from_numpy(np.stack([optimize.nnls(matrix, row)[0] for row in rows])).float()


POINT_ESTIMATES = {"exact": exact, "admm": admm, "one_by_one": one_by_one}


class Watched(ThreadPoolExecutor):
    """Knows how long it had work."""

    began, ended = math.inf, 0.0

    def submit(self, *task, **options):
        self.began = min(self.began, time.perf_counter())
        future = super().submit(*task, **options)
        future.add_done_callback(self._done)
        return future

    def _done(self, _: Future) -> None:
        self.ended = time.perf_counter()


def posterior(run: str, scene: str, out: str) -> None:
    """Prints the seconds that `predict` spends on strips."""
    fit = pu.load_fit(run)
    with Watched(os.cpu_count()) as pool:
        pu.predict(fit, pu.open_scene_file(scene, wavelengths=fit.wavelengths), out, progress=False, executor=pool)
    print(pool.ended - pool.began)


def least_squares(run: str, scene: str, out: str, method: str) -> None:
    """What is compared with: reads as `predict` does, and solves in all threads of torch. Prints the seconds of its strips."""
    fit = pu.load_fit(run)
    file, endmembers = pu.open_scene_file(scene, wavelengths=fit.wavelengths), fit.guide.endmembers.loc().detach()
    rows, cols, _ = file.shape
    with rasterio.open(scene.replace(".hdr", ".img")) as like:
        profile = {"driver": "GTiff", "crs": like.crs, "transform": like.transform}
    began = time.perf_counter()
    with rasterio.open(out, "w", width=cols, height=rows, count=K, dtype="float32", **profile) as maps:
        for first in range(0, rows, STRIP):
            image = file.read([slice(first, min(first + STRIP, rows))])
            pixels = torch.from_numpy(image.reshape(-1, image.shape[2]))
            found = POINT_ESTIMATES[method](pixels, endmembers).reshape(*image.shape[:2], K).numpy()
            maps.write(np.moveaxis(found, -1, 0), window=rasterio.windows.Window(0, first, cols, len(image)))
    print(time.perf_counter() - began)


def read(path: Path) -> None:
    """So that all find it in memory, and none waits for the disk."""
    with open(path, "rb") as file:
        while file.read(2**24):
            pass


def measured(command: list[str], kill_after: float | None = None) -> tuple[float, float, str]:
    """Seconds of a process, the most memory of it that was resident, in GB, and the last line that it wrote."""
    began = time.perf_counter()
    process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    if kill_after is not None:
        time.sleep(kill_after)
        process.kill()
    said = process.stdout.read().splitlines()
    _, status, usage = os.wait4(process.pid, 0)
    if status and kill_after is None:
        raise SystemExit(f"{' '.join(command)} failed")
    return time.perf_counter() - began, usage.ru_maxrss / 2**20, (said or [""])[-1]


def strips_alone(function: Callable, *arguments: str) -> tuple[float, float, float]:
    """Seconds, memory, and the seconds that a function of this module says its strips took."""
    code = f"from benchmarks.large import {function.__name__} as f; f(*{arguments!r})"
    seconds, memory, said = measured([sys.executable, "-c", code])
    return seconds, memory, float(said)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--folder", type=Path, required=True)
    parser.add_argument("--sizes", type=int, nargs="*", default=[10_000, 100_000, 1_000_000, 10_000_000])
    parser.add_argument("--guide", default="mlp")
    options = parser.parse_args()
    options.folder.mkdir(parents=True, exist_ok=True)
    cases = [("granule", 1280, 285)] + [(f"pixels{size}", round(size / COLS), 50) for size in options.sizes]
    table: list[dict] = []
    for name, rows, n_bands in cases:
        scene = make(options.folder, name, rows, n_bands)
        run = options.folder / f"run_{options.guide}_{n_bands}"
        if not run.exists():
            corner = pu.open_scene_file(scene, drop=()).scene(slice(0, STRIP))
            save_fit(run, pu.fit(pu.UnmixingModel(K, brightness="none"), corner.crop(x=slice(0, STRIP)), guide=options.guide))
        read(scene.with_suffix(".img"))
        out = options.folder / f"{name}.tif"
        predict = [sys.executable, "-m", "pyro_unmix", "predict", str(run), str(scene), "--out", str(out)]
        done = {"predict": (*measured(predict)[:2], strips_alone(posterior, str(run), str(scene), str(out))[2])}
        with rasterio.open(out) as maps, rasterio.open(str(scene).replace(".hdr", ".img")) as like:
            assert maps.crs == like.crs and maps.transform == like.transform and maps.shape == like.shape
        if name == "granule":
            measured(predict, kill_after=done["predict"][0] / 2)
            done["predict, killed half way and resumed"] = (*measured([*predict, "--resume"])[:2], math.nan)
        for method in POINT_ESTIMATES:
            done[method] = strips_alone(least_squares, str(run), str(scene), str(options.folder / f"{name}.{method}.tif"), method)
        table += [{"scene": name, "bands": n_bands, "method": method, "pixels": rows * COLS, "seconds": seconds, "GB": memory,
                   "pixels a second": rows * COLS / seconds, "strips": strips, "pixels a second of strips": rows * COLS / strips}
                  for method, (seconds, memory, strips) in done.items()]
        print(pd.DataFrame(table[-len(done):]).round(2).to_string(index=False), flush=True)
    found = pd.DataFrame(table).query("bands == 50 and method == 'predict' and pixels > 50000")  # below, a start is all
    if len(found) > 2:
        a_pixel, start = np.polyfit(found.pixels, found.seconds, 1, w=1 / found.seconds)
        off = (found.seconds / (start + a_pixel * found.pixels) - 1).abs().max()
        print(f"{start:.1f} s and {1e6 * a_pixel:.2f} us a pixel, off by {100 * off:.0f} % at most")
        print("slope of log seconds in log pixels:", slope(found.pixels, found.seconds), "without the start:",
              slope(found.pixels, found.seconds - start), "of strips:", slope(found.pixels, found.strips))


def slope(pixels: pd.Series, seconds: pd.Series) -> float:
    return round(float(np.polyfit(np.log(pixels), np.log(seconds), 1)[0]), 3)


if __name__ == "__main__":
    main()
