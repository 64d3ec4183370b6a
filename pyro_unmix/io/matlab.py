"""MATLAB `.mat` files, up to version 7.3: what is in them, and which of the known layouts that is."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import scipy.io

from pyro_unmix.errors import InputError
from pyro_unmix.io import matlab_layouts as layouts
from pyro_unmix.io.hdf5 import check_contents
from pyro_unmix.io.matlab_tags import check_tags


def read_scene(path: Path, variant: str = "") -> dict:
    """The scene in `path`, in whichever of the known layouts it is."""
    _no_variant(variant)
    arrays = read_arrays(path)
    parts = layouts.scene(arrays)
    if parts is None:
        raise InputError(f"a scene in '{path.name}'", describe(arrays), _advice(arrays, layouts.SCENES.values()) +
                         "; a file with the reference alone goes to reference=")
    return parts


def read_reference(paths: list[Path], size: tuple[int, int], variant: str = "") -> dict:
    """The reference that `paths` hold together, for an image of `size` (rows, columns)."""
    _no_variant(variant)
    arrays = {name: value for path in paths for name, value in read_arrays(path).items()}
    parts = layouts.reference(arrays, size)
    if not parts:
        known = (layouts.REFERENCES | layouts.SCENES).values()
        raise InputError(f"a reference in {', '.join(path.name for path in paths)}", describe(arrays),
                         _advice(arrays, known))
    return parts


def read_arrays(path: Path) -> dict[str, Any]:
    """The variables by name: arrays as MATLAB shows them, text as str, cells as flat lists, structs as dicts.

    Raises
    ------
    InputError
        Not a `.mat` file, or a damaged one.
    """
    try:
        if h5py.is_hdf5(path):
            with h5py.File(path) as file:
                check_contents(file, path)
                return {name: _from_hdf5(item, file) for name, item in file.items() if not name.startswith("#")}
        if scipy.io.matlab.matfile_version(path)[0] == 1:
            check_tags(path)
        variables = scipy.io.loadmat(path)
        return {name: _from_v5(value) for name, value in variables.items() if not name.startswith("__")}
    except InputError:
        raise
    except Exception as error:  # scipy and h5py raise whatever the damaged bytes lead them into
        reason = (str(error).splitlines() or [type(error).__name__])[0]
        raise InputError("a MATLAB file", f"'{path.name}', which cannot be read as one ({reason})",
                         "it may be cut short: copy or download it again") from error


def describe(arrays: dict[str, Any]) -> str:
    """The names and shapes, for a message."""
    if not arrays:
        return "a file without variables"
    shapes = (f"{name} {value.shape}" if isinstance(value, np.ndarray) else f"{name} ({type(value).__name__})"
              for name, value in arrays.items())
    return "the variables " + ", ".join(shapes)


def _from_v5(value: Any) -> Any:
    if not isinstance(value, np.ndarray):
        return value
    if value.dtype.names:
        structs = [{name: _from_v5(item[name]) for name in value.dtype.names} for item in value.ravel(order="F")]
        return structs[0] if len(structs) == 1 else structs
    if value.dtype.kind == "O":
        return [_from_v5(item) for item in value.ravel(order="F")]
    if value.dtype.kind == "U":
        return str(value.item()) if value.size == 1 else [str(line) for line in value.ravel()]
    return value


def _from_hdf5(item: h5py.Group | h5py.Dataset, file: h5py.File) -> Any:
    if isinstance(item, h5py.Group):
        return {name: _from_hdf5(member, file) for name, member in item.items()}
    if "MATLAB_empty" in item.attrs:
        return np.zeros(0)
    values = item[()]
    if h5py.check_ref_dtype(item.dtype):
        return [_from_hdf5(file[reference], file) for reference in values.ravel()]
    # MATLAB counts the first axis fastest and HDF5 the last: the file holds every array transposed.
    values = values.T
    if item.attrs.get("MATLAB_class") == b"char":
        lines = ["".join(map(chr, line)) for line in values]
        return lines[0] if len(lines) == 1 else lines
    return values


def _no_variant(variant: str) -> None:
    if variant:
        raise InputError("no variant: a .mat file holds one reference", f"variant '{variant}'",
                         "give the files of the other reference as reference=")


def _advice(arrays: dict[str, Any], known: Iterable[str]) -> str:
    if layouts.is_library(arrays):
        return "this looks like a spectral library: open it with open_library"
    return f"the layouts known are {'; '.join(known)}"
