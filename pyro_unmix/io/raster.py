"""Rasters read and written by GDAL: what GeoTIFF and ENVI images have in common."""

from __future__ import annotations

import sys
import warnings
from collections.abc import Iterable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import xarray as xr

from pyro_unmix.errors import InputError, UnmixWarning
from pyro_unmix.io.cubes import Cube, readable, row_blocks
from pyro_unmix.io.extras import needed
from pyro_unmix.io.georeference import coordinates, reference_system, transform_of

# While maps are written: no sidecars, and a cache of 128 MB, which GDAL would else let grow with the machine's memory.
WRITING = {"GDAL_PAM_ENABLED": "NO", "GDAL_CACHEMAX": 2**27}


@contextmanager
def opened(path: Path, driver: str, what: str, **settings: str) -> Iterator[Any]:
    """The file in rasterio, read by this driver alone: GDAL would else follow a file of another format to wherever it points.

    `settings` are GDAL's.
    """
    rasterio = needed("rasterio")
    with readable(path, what), _without_noise(), rasterio.Env(**settings):
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", rasterio.errors.NotGeoreferencedWarning)
            file = rasterio.open(path, driver=driver)
        with file:
            if not all(np.dtype(kind).kind in "iuf" for kind in file.dtypes):
                raise InputError("an image of real numbers", f"'{path.name}' of {file.dtypes[0]}", "convert it")
            yield file


@contextmanager
def _without_noise() -> Iterator[None]:
    """Rasterio cannot pass a message of GDAL on that quotes damaged bytes, and prints a traceback of that beside the error."""
    hooks = sys.excepthook, sys.unraisablehook

    def excepthook(kind: Any, error: Any, traceback: Any) -> None:
        if not issubclass(kind, UnicodeDecodeError):
            hooks[0](kind, error, traceback)

    def unraisablehook(found: Any) -> None:
        if found.exc_type is not UnicodeDecodeError:
            hooks[1](found)

    sys.excepthook, sys.unraisablehook = excepthook, unraisablehook
    try:
        yield
    finally:
        sys.excepthook, sys.unraisablehook = hooks


def cube(file: Any, *, gains: np.ndarray | None = None, offsets: np.ndarray | None = None, **parts: Any) -> Cube:
    """A `Cube` of an open file; `parts` are what its format says of the bands.

    `gains` and `offsets` `(bands,)` are followed where GDAL knows none.
    """
    rasterio = needed("rasterio")
    window, valid = rasterio.windows.Window, [rasterio.enums.MaskFlags.all_valid]
    masked = any(flags != valid for flags in file.mask_flag_enums)
    if gains is None or offsets is None or np.any(np.array(file.scales) != 1):
        gains, offsets = np.array(file.scales), np.array(file.offsets)

    def read(rows: slice, bands: np.ndarray) -> np.ndarray:
        part = file.read([int(band) + 1 for band in bands], window=window(0, rows.start, file.width, rows.stop - rows.start),
                         masked=masked)
        if masked:
            part = part.astype(np.result_type(part.dtype, np.float32)).filled(np.nan)
        values = np.moveaxis(part, 0, -1)
        return values * gains[bands] + offsets[bands] if scaled else values

    scaled = bool((gains != 1).any() or offsets.any())
    rows, cols, n_bands = file.height, file.width, file.count
    return Cube(**{"shape": (rows, cols, n_bands), "read": read, "bad": np.zeros(n_bands, bool), "block": file.block_shapes[0][0],
                   "scaled": bool((gains != 1).any()), "coords": coordinates(file.crs, file.transform, rows, cols)} | parts)


def write_maps(shared: xr.Dataset, strips: Iterable[xr.Dataset], path: Path, driver: str, **options: Any) -> None:
    """The maps of a summary as bands with names, NaN where there is no data, on the very grid of the scene."""
    rasterio = needed("rasterio")
    rows, cols = shared.sizes["y"], shared.sizes["x"]
    crs, transform = reference_system(shared), transform_of(shared)
    if transform is None:
        warnings.warn(f"the scene is not on a regular grid on the ground: '{path.name}' is written without a georeference",
                      UnmixWarning, stacklevel=2)
    with ExitStack() as files:
        file, row = None, 0
        for strip in strips:
            bands = named_maps(strip)
            if file is None:
                with warnings.catch_warnings():
                    warnings.simplefilter("ignore", rasterio.errors.NotGeoreferencedWarning)
                    file = rasterio.open(path, "w", driver=driver, width=cols, height=rows, count=len(bands), dtype="float32",
                                         nodata=np.nan, crs=crs, transform=transform, **options)
                files.enter_context(file)
                for number, (name, _) in enumerate(bands, start=1):
                    file.set_band_description(number, name)
                file.update_tags(**{name: str(value) for name, value in shared.attrs.items()})
            for block in row_blocks(strip.sizes["y"], cols * len(bands), 64):
                file.write(np.stack([values.values[block] for _, values in bands]).astype(np.float32),
                           window=rasterio.windows.Window(0, row + block.start, cols, block.stop - block.start))
            row += strip.sizes["y"]


def named_maps(summary: xr.Dataset) -> list[tuple[str, xr.DataArray]]:
    """Every map `(y, x)` of a summary with a name: "alunite mean", "alunite sd", "alunite q05", ..., "reconstruction rmse"."""
    mean, sd = (summary[name].transpose("endmember", "y", "x") for name in ("abundance_mean", "abundance_sd"))
    quantiles = summary.abundance_quantile.transpose("endmember", "quantile", "y", "x")
    found = []
    for number, endmember in enumerate(summary.endmember.values):
        found += [(f"{endmember} mean", mean[number]), (f"{endmember} sd", sd[number])]
        found += [(f"{endmember} q{100 * level:02.0f}", values)
                  for level, values in zip(summary["quantile"].values, quantiles[number], strict=True)]
    return found + [(name.replace("_", " "), summary[name].transpose("y", "x"))
                    for name in ("reconstruction_rmse", "brightness_mean", "khat") if name in summary]
