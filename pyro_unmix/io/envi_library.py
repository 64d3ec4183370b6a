"""ENVI spectral libraries: a `.sli` of plain numbers, and a `.hdr` of text that says what they are."""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np

from pyro_unmix.errors import InputError

# ENVI's numbers of the types, without the complex ones.
_TYPES = {1: "u1", 2: "i2", 3: "i4", 4: "f4", 5: "f8", 12: "u2", 13: "u4", 14: "i8", 15: "u8"}
_LENGTHS = {"", "unknown", "micrometers", "micrometer", "microns", "um", "nanometers", "nanometer", "nm"}


def read_library(path: Path) -> dict:
    """The spectra with what the header says of them; either file of the pair will do."""
    header_path, data_path = _pair(path)
    header = read_header(header_path)
    if "library" not in header.get("file type", "library").lower() or _number(header, "bands", header_path, 1) != 1:
        raise InputError(f"the header of a spectral library in '{header_path.name}'",
                         f"file type {header.get('file type', 'unknown')}, {header.get('bands', 1)} bands",
                         "a scene is opened with open_scene")
    spectra = _read_numbers(header, header_path, data_path)
    parts = {"spectra": spectra, "names": _names(header, header_path, len(spectra))}
    unit = header.get("wavelength units", "").lower()
    if "wavelength" in header and unit != "index":
        if unit not in _LENGTHS:
            raise InputError(f"wavelengths in nanometers or micrometers in '{header_path.name}'", unit, "convert them")
        parts |= {name: _numbers(header, field, header_path, spectra.shape[1])
                  for name, field in (("wavelengths", "wavelength"), ("fwhm", "fwhm")) if field in header}
    if "bbl" in header:
        parts["bad_bands"] = _numbers(header, "bbl", header_path, spectra.shape[1]) == 0
    if "reflectance scale factor" in header:
        parts["scale"] = _number(header, "reflectance scale factor", header_path)
    return parts


def read_header(path: Path) -> dict[str, str]:
    """The fields of an ENVI header by name in lower case, lists without their braces.

    Raises
    ------
    InputError
        Not an ENVI header.
    """
    content = path.read_bytes()
    try:
        text = content.decode("utf-8-sig")
    except UnicodeDecodeError:
        text = content.decode("latin-1")
    if text.split("\n", 1)[0].strip() != "ENVI":
        raise InputError(f"an ENVI header in '{path.name}'", "a file whose first line is not ENVI", "check the path")
    fields = re.findall(r"^[ \t]*([^=;{}\n]+?)[ \t]*=[ \t]*(\{.*?\}|[^\n]*)", text, re.MULTILINE | re.DOTALL)
    return {name.lower(): value.strip().strip("{}").strip() for name, value in fields}


def _pair(path: Path) -> tuple[Path, Path]:
    """The header and the numbers: `lib.hdr` or `lib.sli.hdr`, beside `lib.sli` or `lib`."""
    if path.suffix.lower() == ".hdr":
        bare = path.with_suffix("")
        candidates = [bare, bare.with_name(bare.name + ".sli"), bare.with_name(bare.name + ".SLI")]
    else:
        candidates = [other.with_name(other.name + end) for other in (path.with_suffix(""), path) for end in (".hdr", ".HDR")]
    other = next((candidate for candidate in candidates if candidate.is_file()), None)
    if other is None:
        raise InputError(f"the other file of the library beside '{path.name}'",
                         f"none of {', '.join(candidate.name for candidate in candidates)}", "copy both files")
    return (path, other) if path.suffix.lower() == ".hdr" else (other, path)


def _read_numbers(header: dict[str, str], header_path: Path, data_path: Path) -> np.ndarray:
    n, bands, kind, order, offset = (int(_number(header, field, header_path, default)) for field, default in (
        ("lines", None), ("samples", None), ("data type", None), ("byte order", 0), ("header offset", 0)))
    if kind not in _TYPES or order not in (0, 1) or min(n, bands) < 1 or offset < 0:
        raise InputError(f"an ENVI header of real numbers in '{header_path.name}'",
                         f"data type {kind}, byte order {order}, {n} lines, {bands} samples, header offset {offset}")
    dtype = np.dtype("<>"[order] + _TYPES[kind])
    wanted, there = offset + n * bands * dtype.itemsize, data_path.stat().st_size
    if there < wanted:
        raise InputError(f"{wanted} bytes in '{data_path.name}', as its header says", f"{there}",
                         "it may be cut short: copy or download it again")
    spectra = np.fromfile(data_path, dtype, n * bands, offset=offset).reshape(n, bands).astype(np.float64)
    if "data ignore value" in header:
        # Written in decimal, it is close to the number meant, not equal.
        spectra[np.isclose(spectra, _number(header, "data ignore value", header_path), rtol=1e-6, atol=0)] = np.nan
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


def _numbers(header: dict[str, str], field: str, path: Path, n: int) -> np.ndarray:
    try:
        numbers = np.array([float(number) for number in header[field].replace(",", " ").split()])
    except ValueError as error:
        raise InputError(f"numbers in '{field}' of '{path.name}'", f"{error}") from None
    if len(numbers) != n:
        raise InputError(f"{n} numbers in '{field}' of '{path.name}', one a band", f"{len(numbers)}")
    return numbers


def _number(header: dict[str, str], field: str, path: Path, default: float | None = None) -> float:
    try:
        return float(header[field]) if field in header or default is None else default
    except (KeyError, ValueError):
        raise InputError(f"a number '{field}' in '{path.name}'", f"'{header.get(field, 'none')}'",
                         "the header is not complete") from None
