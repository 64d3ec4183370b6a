"""The layouts in which public unmixing scenes come as `.mat` files: one function a family.

A family takes the numeric arrays of the file and the size `(rows, columns)` of the image where it is known already. It
returns the parts under the names of the `.npz` contract, or None if the file is not one of its own. Abbreviations
in the texts: N pixels, k endmembers. Upstream papers and repositories give the families their names.
"""

from __future__ import annotations

import math
import re
import warnings
from typing import Any, Literal

import numpy as np

from pyro_unmix.errors import InputError, UnmixWarning

Arrays = dict[str, np.ndarray]
Size = tuple[int, int]


def scene(variables: dict[str, Any], size: Size | None = None) -> dict | None:
    """The scene in the first family that knows the file, with its reference if it is there."""
    parts = _first(SCENES, variables, size)
    if parts is not None:
        names = ("wavelengths", "wavelength", "waveLength")
        spectrum = next((variables[name] for name in names if name in variables), ())
        if np.size(spectrum) == parts["image"].shape[2]:
            parts["wavelengths"] = np.ravel(spectrum)
    return parts


def reference(variables: dict[str, Any], size: Size) -> dict | None:
    """The reference in the file, of a scene of `size`; a scene file that has one will do."""
    # Scene layouts first: they know more of their file (its own size, its order) than the name of one array tells.
    parts = _first(SCENES | REFERENCES, variables, size) or {}
    return {name: parts[name] for name in ("abundances", "endmembers", "names") if name in parts} or None


def is_library(variables: dict[str, Any]) -> bool:
    """True for files of spectra without pixels."""
    return bool({"datalib", "lib1"} & variables.keys()) or any(is_records(value) for value in variables.values())


def is_records(value: Any) -> bool:
    """True for a cell array of structs with a name and a reflectance."""
    return isinstance(value, list) and bool(value) and all(
        isinstance(item, dict) and {"name", "reflectance"} <= item.keys() for item in value)


def _zhu(a: Arrays, size: Size | None) -> dict | None:
    flat = _pick(a, 2, "V", "Y")
    if flat is None or not {"nRow", "nCol"} <= a.keys():
        return None
    size = _number(a, "nRow"), _number(a, "nCol")
    image = _cube(_kept_bands(a, flat), size, "F")
    if "maxValue" in a:
        image = image.astype(np.float32) / np.float32(a["maxValue"].max())
    return {"image": image} | (_zhu_reference(a, size) or {})


def _zhu_reference(a: Arrays, size: Size | None) -> dict | None:
    # The size is that of the reference itself where the file has it: a crop's reference may be the whole scene's.
    if {"nRow", "nCol"} <= a.keys():
        size = _number(a, "nRow"), _number(a, "nCol")
    abundances, endmembers = _pick(a, 2, "A", "XT"), _pick(a, 2, "M")
    if "lib1" in a or (abundances is None and endmembers is None):
        return None
    return _present(abundances=None if abundances is None else _cube(abundances, size, "F"),
                    endmembers=None if endmembers is None else _kept_bands(a, endmembers).T)


def _palsson(a: Arrays, size: Size | None) -> dict | None:
    flat, maps = _pick(a, 2, "Y"), _pick(a, 3, "S_GT")
    if flat is None or not (maps is not None or "GT" in a or {"lines", "cols"} <= a.keys()):
        return None
    if {"lines", "cols"} <= a.keys():
        size = _number(a, "lines"), _number(a, "cols")
    elif maps is not None:
        size = maps.shape[:2]
    size = size or _square(flat)
    # The pixels of Y are column-major against the maps, which are spatial already.
    if maps is None and "A" in a:
        maps = _cube(a["A"], size, "F")
    return {"image": _cube(flat, size, "F")} | _present(abundances=maps, endmembers=_pick(a, 2, "GT"))


def _cycunet(a: Arrays, size: Size | None) -> dict | None:
    # M1 is where a method started from, not a reference.
    flat = _pick(a, 2, "Y")
    if flat is None:
        return None
    size = size or _square(flat)
    return {"image": _cube(flat, size, "F")} | (_zhu_reference(a, size) or {})


def _munet(a: Arrays, size: Size | None) -> dict | None:
    image, endmembers = _pick(a, 3, "Y"), _pick(a, 2, "M")
    if image is None:
        return None
    return {"image": image} | _present(abundances=_pick(a, 3, "label"),
                                       endmembers=None if endmembers is None else endmembers.T)


def _rasti(a: Arrays, size: Size | None) -> dict | None:
    image = _pick(a, 3, "Y_clean")
    return None if image is None else {"image": image} | (_rasti_reference(a, size) or _sunaa_reference(a, size) or {})


def _rasti_reference(a: Arrays, size: Size | None) -> dict | None:
    abundances, endmembers = _pick(a, 3, "A_true"), _pick(a, 2, "E")
    if abundances is None and endmembers is None:
        return None
    return _present(abundances=abundances, endmembers=None if endmembers is None else endmembers.T)


def _sunaa_reference(a: Arrays, size: Size | None) -> dict | None:
    # XT holds a map for each spectrum of the library EE, nearly all of them empty: those in use are the reference.
    maps, library = _pick(a, 3, "XT"), _pick(a, 2, "EE")
    if maps is None:
        return None if library is None else {"endmembers": library.T}
    used = maps.any(axis=(1, 2))
    if library is not None and library.shape[1] != len(maps):
        raise InputError(f"a library EE of {len(maps)} spectra, one a map of XT", f"shape {library.shape}")
    return _present(abundances=maps[used].transpose(1, 2, 0),
                    endmembers=None if library is None else library[:, used].T)


def _hysupp(a: Arrays, size: Size | None) -> dict | None:
    parts = _thouvenin(a, size)
    if parts is None or not {"E", "A"} & a.keys():
        return None
    maps, endmembers = _pick(a, 2, "A"), _pick(a, 2, "E")
    return parts | _present(abundances=None if maps is None else _cube(maps, parts["image"].shape[:2], "C"),
                            endmembers=None if endmembers is None else endmembers.T)


def _thouvenin(a: Arrays, size: Size | None) -> dict | None:
    # "Lexicographical" order: unlike in the other families the pixels follow each other along a row.
    flat = _pick(a, 2, "Y")
    if flat is None or not {"H", "W"} <= a.keys():
        return None
    return {"image": _cube(flat, (_number(a, "H"), _number(a, "W")), "C")}


def _borsoi(a: Arrays, size: Size | None) -> dict | None:
    # M0 and A_init are where a method started from, not a reference.
    image = _pick(a, 3, "r_cube")
    return None if image is None else {"image": image}


def _anomaly(a: Arrays, size: Size | None) -> dict | None:
    # Copies of one crop are found both as (rows, cols, bands) and as (cols, rows, bands), and nothing in the file tells
    # which: it is read as stored.
    image = _pick(a, 3, "data")
    return None if image is None else {"image": image}


def _single(a: Arrays, size: Size | None) -> dict | None:
    cube = next(iter(a.values())) if len(a) == 1 and not {"A_true", "S_GT", "XT", "label"} & a.keys() else None
    return {"image": cube} if cube is not None and cube.ndim == 3 else None


# Families that ask for more come first. The texts go into the message of a file that none of them knows.
SCENES = {
    _borsoi: "Borsoi: r_cube (rows, cols, bands)",
    _rasti: "Rasti: Y_clean (rows, cols, bands)",
    _hysupp: "HySUPP: Y (bands, N), E (bands, k), A (k, N), H, W",
    _thouvenin: "Thouvenin: Y (bands, N), H, W",
    _palsson: "Palsson: Y (bands, N), GT (k, bands), S_GT (rows, cols, k), lines, cols",
    _zhu: "Zhu: V or Y (bands, N), nRow, nCol",
    _munet: "MUNet: Y (rows, cols, bands), label (rows, cols, k), M (bands, k)",
    _cycunet: "CyCU-Net: Y (bands, N), A (k, N), M (bands, k), square",
    _anomaly: "anomaly detection: data (rows, cols, bands)",
    _single: "one single array (rows, cols, bands)",
}
REFERENCES = {
    _rasti_reference: "Rasti: A_true (rows, cols, k), E (bands, k)",
    _sunaa_reference: "SUnAA: XT (library, rows, cols), EE (bands, library)",
    _zhu_reference: "Zhu: A (k, N), M (bands, k), cood",
}


def _first(families: dict, variables: dict[str, Any], size: Size | None) -> dict | None:
    numeric = {name: value for name, value in variables.items()
               if isinstance(value, np.ndarray) and value.dtype.kind in "fiub"}
    for family in families:
        parts = family(numeric, size)
        if parts is not None:
            return parts | _names(variables, parts)
    return None


def _names(variables: dict[str, Any], parts: dict) -> dict:
    """The names of the reference, without the number in front of them ("1-tree", "#1 Alunite")."""
    lines: list = next((variables[key] for key in ("cood", "names", "labels") if isinstance(variables.get(key), list)), [])
    names = [re.sub(r"^\W*\d+[-.\s]+", "", line.strip()) for line in lines if isinstance(line, str)]
    k = parts["abundances"].shape[2] if "abundances" in parts else len(parts.get("endmembers", ()))
    return {"names": names} if names and len(names) == k else {}


def _pick(a: Arrays, ndim: int, *names: str) -> np.ndarray | None:
    return next((a[name] for name in names if name in a and a[name].ndim == ndim), None)


def _present(**parts: np.ndarray | None) -> dict:
    return {name: part for name, part in parts.items() if part is not None}


def _number(a: Arrays, name: str) -> int:
    if a[name].size != 1:
        raise InputError(f"one number as '{name}'", f"shape {a[name].shape}")
    return int(a[name].item())


def _cube(flat: np.ndarray, size: Size | None, order: Literal["C", "F"]) -> np.ndarray:
    """`(channels, N)` to `(rows, columns, channels)`; order F: the pixels follow each other down a column."""
    assert size is not None  # abundances come with the image, or with its size
    rows, cols = size
    if flat.ndim != 2 or flat.shape[1] != rows * cols:
        raise InputError(f"{rows} x {cols} = {rows * cols} pixels, one a column", f"an array of shape {flat.shape}",
                         "the size does not belong to these pixels")
    return flat.reshape(len(flat), rows, cols, order=order).transpose(1, 2, 0)


def _kept_bands(a: Arrays, spectra: np.ndarray) -> np.ndarray:
    """The rows (bands) that the file's own list keeps, counted from 1, where they have not been cut out yet."""
    kept = next((a[name].ravel() for name in ("SlectBands", "slctBnds") if name in a), np.zeros(0))
    if not 0 < len(kept) < len(spectra):
        return spectra
    if np.min(kept) < 1 or np.max(kept) > len(spectra):
        raise InputError(f"selected bands from 1 to {len(spectra)}", f"{np.min(kept)} to {np.max(kept)}")
    return spectra[kept.astype(int) - 1]


def _square(flat: np.ndarray) -> Size:
    side = math.isqrt(flat.shape[1])
    if side**2 != flat.shape[1]:
        raise InputError("the size of the image beside its pixels", f"{flat.shape[1]} pixels and no size",
                         "add nRow and nCol to the file")
    warnings.warn(f"the file does not say how large its image is: {flat.shape[1]} pixels are taken as a square of "
                  f"{side} x {side}", UnmixWarning, stacklevel=2)
    return side, side
