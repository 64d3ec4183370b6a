"""Scenes and spectral libraries as `.npz`: the names of the contract, no pickles."""

from __future__ import annotations

import zipfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np

from pyro_unmix.errors import InputError
from pyro_unmix.io.files import atomic_path
from pyro_unmix.scene import Scene

_CONTRACT = ("the names are image, wavelengths, mask, abundances, endmembers, names "
             "(a spectral library is opened with open_library)")


def read_scene(path: Path, variant: str = "") -> dict:
    """Everything the contract names; only those members of the archive are read."""
    with open_archive(path) as archive:
        if "image" not in archive.files:
            raise InputError(f"an array 'image' (rows, columns, bands) in '{path.name}'", _found(archive), _CONTRACT)
        parts = {name: member(archive, name) for name in ("image", "wavelengths", "mask") if name in archive.files}
        return parts | _reference(archive, variant)


def read_reference(paths: list[Path], size: tuple[int, int], variant: str = "") -> dict:
    """The reference alone; of several files a later one completes or replaces what an earlier one said."""
    parts: dict = {}
    for path in paths:
        with open_archive(path) as archive:
            reference = _reference(archive, variant)
            if not reference:
                raise InputError(f"'abundances' (rows, columns, k) or 'endmembers' (k, bands) in '{path.name}'",
                                 _found(archive), _CONTRACT)
            parts |= reference
    return parts


def read_library(path: Path) -> dict:
    """A spectral library: `spectra` (n, bands) and `names`, and `wavelengths` and `fwhm` if they are there."""
    with open_archive(path) as archive:
        if not {"spectra", "names"} <= set(archive.files):
            raise InputError(f"arrays 'spectra' (n, bands) and 'names' in '{path.name}'",
                             ", ".join(archive.files) or "no array", "a scene is opened with open_scene")
        return {name: member(archive, name) for name in ("spectra", "names", "wavelengths", "fwhm") if name in archive.files}


def write_scene(scene: Scene, path: Path) -> None:
    """The inverse of `read_scene`, whole or not at all."""
    arrays: dict = {"image": scene.reflectance.values, "mask": scene.mask.values}
    if scene.wavelengths is not None:
        arrays["wavelengths"] = scene.wavelengths
    if scene.reference is not None:
        arrays |= {name: array.values for name, array in scene.reference.data_vars.items()}
        arrays["names"] = scene.reference.endmember.values.astype(str)
    with atomic_path(path) as temporary:
        np.savez_compressed(temporary, **arrays)


@contextmanager
def open_archive(path: Path) -> Iterator[np.lib.npyio.NpzFile]:
    """An archive whose members are read when they are asked for; what is wrong with it becomes an `InputError`."""
    # A file cut short has lost the table at its end, and a pickle or a bare .npy never had one.
    if not zipfile.is_zipfile(path):
        raise InputError("an .npz archive", f"'{path.name}', which is not one or is cut short",
                         "copy it again, or write it with numpy.savez")
    try:
        # Opened here, because numpy leaves a file that it cannot make sense of open.
        with open(path, "rb") as file, np.load(file, allow_pickle=False) as archive:
            yield archive
    except InputError:
        raise
    except Exception as error:  # damaged bytes lead numpy anywhere
        raise InputError("an .npz archive of plain arrays", f"'{path.name}' ({' '.join(str(error).split())[:200]})",
                         "save arrays of numbers or text, not objects; if it is damaged copy it again") from error


def member(archive: np.lib.npyio.NpzFile, name: str) -> np.ndarray:
    """An array of the archive; numpy hands out the bytes of what it does not know."""
    array = archive[name]
    if not isinstance(array, np.ndarray):
        raise InputError("an .npz archive of plain arrays", f"'{name}' in it, which is none", "if it is damaged copy it again")
    return array


def _reference(archive: np.lib.npyio.NpzFile, variant: str) -> dict:
    kinds = ("abundances", "endmembers")
    for suffix in (variant, f"_{variant}"):
        parts = {kind: member(archive, kind + suffix) for kind in kinds if kind + suffix in archive.files}
        if parts:
            break
    else:
        if not variant:
            return {}
        known = sorted({name[len(kind):].lstrip("_") for kind in kinds for name in archive.files
                        if name.startswith(kind) and name != kind})
        raise InputError(f"one of the references in the file ({', '.join(known) or 'none but the default'})",
                         f"variant '{variant}'", "leave it out for the default")
    if "brightness" in archive.files:
        parts["brightness"] = member(archive, "brightness")
    k = parts["abundances"].shape[-1:] if "abundances" in parts else parts["endmembers"].shape[:1]
    names = next((member(archive, name) for name in (f"names{suffix}", "names") if name in archive.files), np.zeros(0))
    return parts | ({"names": names} if names.shape == k else {})


def _found(archive: np.lib.npyio.NpzFile) -> str:
    return f"the arrays {', '.join(archive.files)}" if archive.files else "no array"
