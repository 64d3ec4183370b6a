"""What the page is made of: the files of a run folder, read without holding the maps of a large scene."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pandas as pd
import xarray as xr

from pyro_unmix.errors import InputError
from pyro_unmix.io.summary_files import open_summary
from pyro_unmix.report.pixels import shown_pixels

KHAT = 0.7  # above it, weights cannot be trusted: `arviz.khat`
_BLOCK = 2**18  # pixels read at a time: 10 MB a map of ten endmembers


class Totals(NamedTuple):
    """Numbers of all pixels of a scene.

    Attributes
    ----------
    pixels, used
        How many there are, and how many are not masked.
    mean, largest, sd
        `(K,)`: of each abundance, the mean over pixels in use, the largest mean of a pixel, and the mean standard deviation.
    explained
        Share of the squared reflectance that the linear mixtures of the means hold, residuals the rest.
    weights_failed
        Share of the pixels with a k-hat above 0.7; None where there is none.
    """

    pixels: int
    used: int
    mean: np.ndarray
    largest: np.ndarray
    sd: np.ndarray
    explained: float
    weights_failed: float | None

    @classmethod
    def of(cls, summary: xr.Dataset) -> Totals:
        """Of a summary, in memory or not, block by block of its rows."""
        parts = [_sums(block) for block in _blocks(summary.drop_vars("abundance_quantile", errors="ignore"))]
        largest = np.max([part.pop("largest") for part in parts], axis=0)
        sums = {name: np.sum([part[name] for part in parts], axis=0) for name in parts[0]}
        with np.errstate(invalid="ignore"):  # of a scene without a pixel in use there is no mean
            return cls(summary.sizes["y"] * summary.sizes["x"], int(sums["used"]), sums["mean"] / sums["used"], largest,
                       sums["sd"] / sums["used"], float(sums["fitted"] / (sums["fitted"] + sums["left"])),
                       float(sums["failed"] / sums["weighted"]) if "khat" in summary else None)


class Run(NamedTuple):
    """A run folder.

    Attributes
    ----------
    summary
        That of the pixels at `rows` and `cols`.
    totals
        Of all pixels.
    shape
        `(rows, columns)` of the scene.
    rows, cols
        Positions of the pixels that the page shows.
    history, config
        `history.csv` and `config.json`.
    pixels
        `pixels.nc`, or None where there is none.
    """

    folder: Path
    summary: xr.Dataset
    totals: Totals
    shape: tuple[int, int]
    rows: np.ndarray
    cols: np.ndarray
    history: pd.DataFrame
    config: dict
    pixels: xr.Dataset | None

    @classmethod
    def read(cls, folder: Path) -> Run:
        names = ("summary.nc", "history.csv", "config.json")
        if missing := [name for name in names if not (folder / name).is_file()]:
            raise InputError("a run folder with summary.nc, history.csv and config.json",
                             f"no {', '.join(missing)} in '{folder}'", "give the folder that `pyro-unmix fit` wrote")
        try:
            with open_summary(folder / "summary.nc") as whole:
                shape = whole.sizes["y"], whole.sizes["x"]
                rows, cols = shown_pixels(*shape, whole.sizes["endmember"])
                summary, totals = _thinned(whole, rows, cols), Totals.of(whole)
            history = pd.read_csv(folder / "history.csv")
            history = history.astype({column: float for column in history.columns if column != "stage"})
            config = json.loads((folder / "config.json").read_text("utf-8"))
            if not isinstance(config, dict):
                raise ValueError("config.json holds no settings")
            return cls(folder, summary, totals, shape, rows, cols, history, config, _read_pixels(folder / "pixels.nc"))
        except (OSError, ValueError, KeyError) as error:  # what HDF5, pandas and json raise for a damaged file
            raise InputError("a run folder whose files can be read", f"'{folder}': {error}", "run the fit again") from error


def _read_pixels(path: Path) -> xr.Dataset | None:
    if not path.is_file():
        return None
    with xr.open_dataset(path, engine="h5netcdf") as pixels:
        return pixels.load()


def _thinned(whole: xr.Dataset, rows: np.ndarray, cols: np.ndarray) -> xr.Dataset:
    """The pixels at `rows` and `cols`. Read in whole blocks: HDF5 is slow to pick single values."""
    first, parts = 0, []
    for block in _blocks(whole):
        here = rows[(rows >= first) & (rows < first + block.sizes["y"])] - first
        parts.append(block.isel(y=here, x=cols))
        first += block.sizes["y"]
    return xr.concat(parts, dim="y", data_vars="minimal", coords="minimal", compat="override", join="override")


def _blocks(summary: xr.Dataset) -> Iterator[xr.Dataset]:
    step = max(1, _BLOCK // summary.sizes["x"])
    for first in range(0, summary.sizes["y"], step):
        yield summary.isel(y=slice(first, first + step)).load()


def _sums(block: xr.Dataset) -> dict[str, np.ndarray]:
    """Sums over the pixels in use of a block, and the largest abundances."""
    abundances, sd = (block[name].transpose("y", "x", "endmember").values for name in ("abundance_mean", "abundance_sd"))
    spectra = block.endmember_mean.transpose("endmember", "wavelength").values
    fitted = np.einsum("yxk,kl,yxl->yx", abundances, spectra @ spectra.T / spectra.shape[1], abundances, optimize=True)
    if "brightness_mean" in block:
        fitted = fitted * block.brightness_mean.transpose("y", "x").values ** 2
    left = block.reconstruction_rmse.transpose("y", "x").values ** 2
    used = np.isfinite(abundances).all(axis=2)
    sums = {name: values[used].sum(axis=0, dtype=np.float64)
            for name, values in (("mean", abundances), ("sd", sd), ("fitted", fitted), ("left", left))}
    sums |= {"used": used.sum(), "largest": abundances[used].max(axis=0, initial=0.0)}
    if "khat" in block:
        sums |= {"failed": (block.khat.values > KHAT).sum(), "weighted": block.khat.notnull().values.sum()}
    return sums
