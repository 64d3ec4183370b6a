"""Small files as sensors' software writes them, made by the libraries themselves."""

from __future__ import annotations

import warnings
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import rasterio
import rioxarray  # noqa: F401  (gives xarray its .rio)
import xarray as xr
from rasterio.crs import CRS
from rasterio.transform import Affine

from pyro_unmix.errors import UnmixWarning
from pyro_unmix.io import open_scene

ROWS, COLS = 7, 5
# Two of the twelve bands are where water vapour absorbs.
NM = np.array([450.0, 550, 650, 850, 1050, 1250, 1400, 1600, 1850, 2100, 2200, 2300])
DRY = np.flatnonzero((NM != 1400) & (NM != 1850))
BANDS = len(NM)
FWHM = np.linspace(6.0, 12.0, BANDS)
UTM = CRS.from_epsg(32633)
GRID = Affine(30.0, 0.0, 366975.0, 0.0, -30.0, 5808045.0)


def reflectance(rows: int = ROWS, cols: int = COLS) -> np.ndarray:
    """(rows, columns, bands), multiples of 1e-4: exact in any type at the usual scale."""
    return np.random.default_rng(0).integers(500, 6000, (rows, cols, BANDS)) / 10_000


def braces(values) -> str:
    return "{" + ", ".join(f"{value:g}" for value in values) + "}"


def write_raster(path: Path, values: np.ndarray, *, driver: str = "GTiff", crs=UTM, transform=GRID, **profile):
    """`values` (rows, columns, bands); returns the open file, to add tags to."""
    rows, cols, bands = values.shape
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", rasterio.errors.NotGeoreferencedWarning)
        file = rasterio.open(path, "w", driver=driver, width=cols, height=rows, count=bands, dtype=values.dtype, crs=crs,
                             transform=transform, **profile)
    file.write(np.moveaxis(values, -1, 0))
    return file


def write_envi(folder: Path, values: np.ndarray, *, interleave: str = "bsq", order: str = "<", header: dict | None = None,
               name: str = "scene", ending: str = ".img") -> Path:
    """The header's path. `values` (rows, columns, bands) in their own type."""
    kinds = {"int16": 2, "float32": 4, "uint16": 12}
    axes = {"bsq": (2, 0, 1), "bil": (0, 2, 1), "bip": (0, 1, 2)}[interleave]
    rows, cols, bands = values.shape
    (folder / f"{name}{ending}").write_bytes(values.transpose(axes).astype(values.dtype.newbyteorder(order)).tobytes())
    fields = {"samples": cols, "lines": rows, "bands": bands, "header offset": 0, "file type": "ENVI Standard",
              "data type": kinds[values.dtype.name], "interleave": interleave, "byte order": 0 if order == "<" else 1,
              **(header or {})}
    path = folder / f"{name}.hdr"
    path.write_text("ENVI\n" + "".join(f"{key} = {value}\n" for key, value in fields.items() if value is not None))
    return path


MAP_INFO = {"map info": "{UTM, 1, 1, 366975, 5808045, 30, 30, 33, North, WGS-84}"}
SPECTRAL = {"wavelength units": "Nanometers", "wavelength": braces(NM), "fwhm": braces(FWHM)}


def plain_cube(values: np.ndarray | None = None) -> xr.DataArray:
    """As xarray users keep them, with a georeference."""
    values = reflectance() if values is None else values
    cube = xr.DataArray(values.astype(np.float32), dims=("y", "x", "wavelength"), name="reflectance",
                        coords={"y": GRID.f + GRID.e * (np.arange(len(values)) + 0.5),
                                "x": GRID.c + GRID.a * (np.arange(values.shape[1]) + 0.5),
                                "wavelength": ("wavelength", NM, {"units": "nm"}), "fwhm": ("wavelength", FWHM)})
    return cube.rio.write_crs(UTM).rio.write_transform(GRID)


def write_emit(path: Path, values: np.ndarray, good: np.ndarray) -> None:
    """The layout of EMIT's L2A reflectance."""
    raw = values.astype(np.float32)
    rows, cols, _ = raw.shape
    lat, lon = np.meshgrid(np.linspace(35, 34, rows), np.linspace(-118, -117, cols), indexing="ij")
    root = xr.Dataset({"reflectance": (("downtrack", "crosstrack", "bands"), np.where(np.isnan(raw), -9999, raw))},
                      attrs={"spatial_ref": CRS.from_epsg(4326).to_wkt(), "geotransform": [-118.0, 5e-4, 0.0, 35.0, 0.0, -5e-4]})
    root.reflectance.attrs |= {"_FillValue": np.float32(-9999), "units": "unitless"}
    root.to_netcdf(path, engine="h5netcdf")
    bands = xr.Dataset({"wavelengths": ("bands", NM.astype(np.float32), {"units": "nm"}),
                        "fwhm": ("bands", FWHM.astype(np.float32), {"units": "nm"}),
                        "good_wavelengths": ("bands", good.astype(np.uint8))})
    bands.to_netcdf(path, engine="h5netcdf", group="sensor_band_parameters", mode="a")
    location = xr.Dataset({"lat": (("downtrack", "crosstrack"), lat), "lon": (("downtrack", "crosstrack"), lon),
                           "glt_x": (("ortho_y", "ortho_x"), np.zeros((rows + 2, cols + 3), np.int32))})
    location.to_netcdf(path, engine="h5netcdf", group="location", mode="a")


@contextmanager
def quiet():
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UnmixWarning)
        yield


def opened(path: Path, **options):
    """The scene, whatever is said of it."""
    with quiet():
        return open_scene(path, **options)
