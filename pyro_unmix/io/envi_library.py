"""ENVI spectral libraries: a `.sli` of plain numbers, and a `.hdr` of text that says what they are."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from pyro_unmix.errors import InputError
from pyro_unmix.io.envi_header import TYPES, number, numbers, pair, read_header, shown

_LENGTHS = {"", "unknown", "micrometers", "micrometer", "microns", "um", "nanometers", "nanometer", "nm"}


def read_library(path: Path) -> dict:
    """The spectra with what the header says of them; either file of the pair will do."""
    header_path, data_path = pair(path, (".sli",), "library")
    header = read_header(header_path)
    if "library" not in header.get("file type", "library").lower() or number(header, "bands", header_path, 1) != 1:
        raise InputError(f"the header of a spectral library in '{header_path.name}'",
                         f"file type {shown(header, 'file type')}, {shown(header, 'bands')} bands",
                         "a scene is opened with open_scene")
    spectra = _read_spectra(header, header_path, data_path)
    parts = {"spectra": spectra, "names": _names(header, header_path, len(spectra))}
    unit = header.get("wavelength units", "").lower()
    if "wavelength" in header and unit != "index":
        if unit not in _LENGTHS:
            raise InputError(f"wavelengths in nanometers or micrometers in '{header_path.name}'", unit, "convert them")
        parts |= {name: numbers(header, field, header_path, spectra.shape[1])
                  for name, field in (("wavelengths", "wavelength"), ("fwhm", "fwhm")) if field in header}
    if "bbl" in header:
        parts["bad_bands"] = numbers(header, "bbl", header_path, spectra.shape[1]) == 0
    if "reflectance scale factor" in header:
        parts["scale"] = number(header, "reflectance scale factor", header_path)
    return parts


def _read_spectra(header: dict[str, str], header_path: Path, data_path: Path) -> np.ndarray:
    n, bands, kind, order, offset = (int(number(header, field, header_path, default)) for field, default in (
        ("lines", None), ("samples", None), ("data type", None), ("byte order", 0), ("header offset", 0)))
    if kind not in TYPES or order not in (0, 1) or min(n, bands) < 1 or offset < 0:
        raise InputError(f"an ENVI header of real numbers in '{header_path.name}'",
                         f"data type {kind}, byte order {order}, {n} lines, {bands} samples, header offset {offset}")
    dtype = np.dtype("<>"[order] + TYPES[kind])
    wanted, there = offset + n * bands * dtype.itemsize, data_path.stat().st_size
    if there < wanted:
        raise InputError(f"{wanted} bytes in '{data_path.name}', as its header says", f"{there}",
                         "it may be cut short: copy or download it again")
    spectra = np.fromfile(data_path, dtype, n * bands, offset=offset).reshape(n, bands).astype(np.float64)
    if "data ignore value" in header:
        # Written in decimal, it is close to the number meant, not equal.
        spectra[np.isclose(spectra, number(header, "data ignore value", header_path), rtol=1e-6, atol=0)] = np.nan
    return spectra


def _names(header: dict[str, str], path: Path, n: int) -> list[str]:
    if "spectra names" not in header:
        return [f"spectrum {i + 1}" for i in range(n)]
    text = header["spectra names"]
    # A name may hold a comma ("Jarosite Na,K"); then one name a line is the only way to tell.
    for names in (text.split(","), text.splitlines()):
        if len(names) == n:
            return [" ".join(name.strip().rstrip(",").split()) for name in names]
    raise InputError(f"{n} spectra names in '{path.name}'", f"{len(text.split(','))}",
                     "a name that holds a comma needs a line of its own, as all others do")
