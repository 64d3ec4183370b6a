"""ENVI images: a file of plain numbers, and a `.hdr` of text that says what they are."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import xarray as xr

from pyro_unmix.errors import InputError
from pyro_unmix.io import raster
from pyro_unmix.io.bands import described, nanometres, widths
from pyro_unmix.io.cubes import Cube
from pyro_unmix.io.envi_header import TYPES, number, numbers, pair, read_header, shown
from pyro_unmix.io.extras import needed
from pyro_unmix.io.files import atomic_folder

# What the file of numbers may be called, with the name of the header.
ENDINGS = (".img", ".bsq", ".bil", ".bip", ".dat", ".raw")
# A sidecar of GDAL's would take the place of what the header says.
_HEADER_ALONE = {"GDAL_PAM_ENABLED": "NO"}
# Rows of all bands that lie next to each other are read at once, not one by one.
_AT_ONCE = {"GDAL_ONE_BIG_READ": "YES"}


@contextmanager
def open_cube(path: Path) -> Iterator[Cube]:
    """Values by the header's gains and offsets, or its reflectance scale factor; either file of the pair will do."""
    header_path, data_path = pair(path, ENDINGS, "image")
    header = read_header(header_path)
    shape = _checked_shape(header, header_path, data_path)
    with raster.opened(data_path, "ENVI", "an ENVI image", **_HEADER_ALONE, **_AT_ONCE) as file:
        if (file.height, file.width, file.count) != shape:
            raise InputError(f"an image of {' x '.join(map(str, shape))} values, as '{header_path.name}' says",
                             f"{file.height} x {file.width} x {file.count}", f"is there another header of '{data_path.name}'?")

        def each(field: str) -> np.ndarray | None:
            return numbers(header, field, header_path, shape[2]) if field in header else None

        unit = header.get("wavelength units", "")
        wavelengths = nanometres(each("wavelength"), unit)
        wavelengths = described(file.descriptions) if wavelengths is None else wavelengths
        bad = each("bbl")
        parts = {"wavelengths": wavelengths, "fwhm": widths(each("fwhm"), unit, wavelengths),
                 "bad": np.zeros(shape[2], bool) if bad is None else bad == 0}
        cube = raster.cube(file, **parts)
        if "reflectance scale factor" in header:
            cube = _divided(cube, number(header, "reflectance scale factor", header_path), header_path)
        yield cube
    _checked_shape(header, header_path, data_path)  # GDAL reads zeros from a file that has been cut while it was read


def has_header(path: Path) -> bool:
    return any(path.with_name(name + ".hdr").is_file() for name in (path.stem, path.name))


def write_summary(shared: xr.Dataset, strips: Iterable[xr.Dataset], path: Path, room: int) -> None:
    """The maps of a summary as `NAME.img` and `NAME.hdr`, both whole or not at all."""
    # In a header a comma ends a name, and braces end the list of them.
    names = [str(name).translate(str.maketrans(",{}=", ";()-")) for name in shared.endmember.values]
    with atomic_folder(path, room=room) as folder, needed("rasterio").Env(**raster.WRITING):
        made = folder / path.with_suffix(".img").name
        raster.write_maps(shared, (strip.assign_coords(endmember=names) for strip in strips), made, "ENVI")
        header = made.with_suffix(".hdr")
        # GDAL describes the file by its path, here a temporary one.
        header.write_text(re.sub(r"\{[^}]*\}", f"{{{made.name}}}", header.read_text(), count=1))


def _checked_shape(header: dict[str, str], header_path: Path, data_path: Path) -> tuple[int, int, int]:
    """`(rows, columns, bands)`, of a header that agrees with the size of its file to the byte."""
    rows, cols, n_bands, kind, order, offset = (int(number(header, field, header_path, default)) for field, default in (
        ("lines", None), ("samples", None), ("bands", None), ("data type", None), ("byte order", 0), ("header offset", 0)))
    interleave = shown(header, "interleave").lower()
    if (kind not in TYPES or order not in (0, 1) or min(rows, cols, n_bands) < 1 or offset < 0
            or interleave not in ("bil", "bip", "bsq") or "library" in header.get("file type", "").lower()):
        raise InputError(f"an ENVI header of an image of real numbers in '{header_path.name}'",
                         f"file type {shown(header, 'file type')}, data type {kind}, byte order {order}, interleave "
                         f"{interleave}, {rows} lines, {cols} samples, {n_bands} bands, header offset {offset}",
                         "correct the header; a spectral library is opened with open_library")
    wanted, there = offset + rows * cols * n_bands * np.dtype(TYPES[kind]).itemsize, data_path.stat().st_size
    if wanted != there:
        raise InputError(f"{wanted} bytes in '{data_path.name}', as its header says", f"{there}",
                         "it may be cut short: copy or download it again" if there < wanted else
                         "the header belongs to another file, or lines, samples, bands or data type are wrong in it")
    return rows, cols, n_bands


def _divided(cube: Cube, scale: float, header_path: Path) -> Cube:
    if not (np.isfinite(scale) and scale > 0):
        raise InputError(f"a positive reflectance scale factor in '{header_path.name}'", f"{scale}")
    return Cube(**vars(cube) | {"read": lambda rows, bands: cube.read(rows, bands) / scale, "scaled": cube.scaled or scale != 1})
