"""GeoTIFF: cubes with the wavelengths where GDAL, EnMAP-Box or ENVI put them, and maps as cloud-optimised files."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import xarray as xr

from pyro_unmix.io import enmap, raster
from pyro_unmix.io.bands import described, nanometres, widths
from pyro_unmix.io.cubes import Cube
from pyro_unmix.io.extras import needed
from pyro_unmix.io.files import atomic_folder
from pyro_unmix.io.sizes import check_size

# The highest level takes three times as long as the lowest, and saves a thirtieth.
_PACKED = {"compress": "DEFLATE", "level": 1, "predictor": "YES", "blocksize": 256, "bigtiff": "IF_SAFER", "overviews": "AUTO",
           "overview_resampling": "AVERAGE", "num_threads": "ALL_CPUS"}


@contextmanager
def open_cube(path: Path) -> Iterator[Cube]:
    """Values by GDAL's scale and offset, gaps by its no-data value or mask."""
    with raster.opened(path, "GTiff", "a GeoTIFF") as file:
        packed = file.compression is not None
        shape = (file.height, file.width, file.count)
        check_size(shape, np.dtype(file.dtypes[0]).itemsize, path.stat().st_size, path, packed=packed)
        bands = [_lower(file.tags(number)) | _imagery(file.tags(number, ns="IMAGERY")) for number in file.indexes]
        whole = _lower(file.tags()) | _lower(file.tags(ns="ENVI"))
        unit = bands[0].get("wavelength_units", whole.get("wavelength_units", ""))
        wavelengths = nanometres(_each(bands, whole, "wavelength"), unit)
        fwhm = widths(_each(bands, whole, "fwhm"), unit, wavelengths)
        if wavelengths is None:
            wavelengths = described(file.descriptions)
        product = enmap.bands_beside(path, file.count)
        if wavelengths is None and product:
            wavelengths, fwhm = product["wavelength"], product["fwhm"]
        bad = _each(bands, whole, "bbl")
        yield raster.cube(file, wavelengths=wavelengths, fwhm=fwhm, bad=np.zeros(file.count, bool) if bad is None else bad == 0,
                          gains=product.get("gain"), offsets=product.get("offset"))


def write_summary(shared: xr.Dataset, strips: Iterable[xr.Dataset], path: Path, room: int) -> None:
    """A tiled, compressed GeoTIFF with overviews, cloud optimised, whole or not at all."""
    rasterio = needed("rasterio")
    copy = needed("rasterio.shutil").copy
    # Plain, and packed with overviews.
    with atomic_folder(path, room=3 * room) as folder, rasterio.Env(**raster.WRITING):
        plain = folder / f"plain-{path.name}"
        raster.write_maps(shared, strips, plain, "GTiff", bigtiff="IF_SAFER")
        copy(plain, folder / path.name, driver="COG", **_PACKED)
        plain.unlink()


def _lower(tags: dict[str, str]) -> dict[str, str]:
    return {name.lower().replace(" ", "_"): value.strip("{} \n") for name, value in tags.items()}


def _imagery(tags: dict[str, str]) -> dict[str, str]:
    """What GDAL 3.10 and later say of a band, in micrometres."""
    if "CENTRAL_WAVELENGTH_UM" not in tags:
        return {}
    found = {"wavelength": tags["CENTRAL_WAVELENGTH_UM"], "wavelength_units": "Micrometers"}
    return found | ({"fwhm": tags["FWHM_UM"]} if "FWHM_UM" in tags else {})


def _each(bands: list[dict[str, str]], whole: dict[str, str], name: str) -> np.ndarray | None:
    """`(bands,)` numbers that every band has, or that the file lists; None where neither is so."""
    texts = [band[name] for band in bands if name in band] or whole.get(name, "").replace(",", " ").split()
    try:
        numbers = np.array([float(text) for text in texts])
    except ValueError:
        return None
    return numbers if len(numbers) == len(bands) else None
