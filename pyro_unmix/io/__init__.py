"""Read and write scenes: the format is chosen by the extension, one module a format.

A format of prepared scenes is a module with `read_scene(path, variant)` and `read_reference(paths, size, variant)`. Both
return a dict with the names of the `.npz` contract (`image`, `wavelengths`, `mask`, `abundances`, `endmembers`, `names`, and
what a simulation adds, `brightness`), arrays in the order of the contract: `(rows, columns, bands)`, `(rows, columns, k)`,
`(k, bands)`. A new format is one such module and one line in `_FORMATS`.

A sensor's format is a module with `open_cube(path)` (`pyro_unmix.io.cubes`) and one line in `_CUBES`.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from types import ModuleType

import numpy as np
import xarray as xr

from pyro_unmix.errors import InputError
from pyro_unmix.io import envi, geotiff, matlab, netcdf, npz, zarr
from pyro_unmix.io.bands import WATER_VAPOUR
from pyro_unmix.io.library_files import Intervals
from pyro_unmix.io.scene_file import SceneFile
from pyro_unmix.scene import Scene, check_reference

__all__ = ["WATER_VAPOUR", "SceneFile", "is_sensor_file", "open_reference", "open_scene", "open_scene_file", "save_scene"]

_FORMATS: dict[str, ModuleType] = {".npz": npz, ".mat": matlab}
_CUBES: dict[str, ModuleType] = {".hdr": envi, ".tif": geotiff, ".tiff": geotiff, ".nc": netcdf, ".zarr": zarr,
                                 **dict.fromkeys(envi.ENDINGS, envi)}

PathLike = str | os.PathLike


def open_scene(path: PathLike, *, reference: PathLike | Sequence[PathLike] = (), variant: str = "",
               mask: np.ndarray | None = None, drop: Intervals = WATER_VAPOUR, wavelengths: np.ndarray | None = None) -> Scene:
    """Open a hyperspectral scene.

    Parameters
    ----------
    path
        The file: `.npz` (`image` and the other names of the contract) or `.mat` (the layouts that public unmixing
        scenes come in, version 7.3 included), prepared scenes of which bands and numbers stay as they are. Or what sensors
        write: ENVI (the `.hdr` or the file beside it), GeoTIFF (`.tif`), NetCDF (`.nc`, EMIT's included), `.zarr`. Of these,
        numbers become reflectance by the scale that the file states, bands that it marks as bad are left out, pixels
        without data are masked, and the georeference is kept.
    reference
        The file or files that hold the reference abundances and endmembers, where they are kept apart from the image;
        they take the place of a reference inside `path`.
    variant
        Another reference of an `.npz`, by its suffix: "alt" takes `abundances_alt`, "4" takes `abundances4`.
    mask
        `(rows, columns)`, True where the pixel is to be used, in place of the file's own.
    drop
        Of a sensor's file, intervals of wavelengths (nm, ends included) to leave out; by default those in which water vapour
        absorbs, 1340 to 1460 and 1790 to 1960 nm. `()` keeps them.
    wavelengths
        Of a sensor's file, take the bands at these wavelengths (nm) and no others: those of a fit, to unmix another scene.

    Raises
    ------
    InputError
        No such file, a package that the format needs is missing, unknown format or layout, a damaged file, arrays whose shapes
        do not agree.
    """
    path = _existing(path)
    reference = _existing_all(reference)
    bands: np.ndarray | slice = slice(None)
    if (sensor := _sensor_format(path)) is not None:
        _refuse_variant(variant, reference, path)
        file = SceneFile.of(path, sensor.open_cube, drop, wavelengths)
        parts, bands, n_bands = file.scene_parts(), file.bands, file.n_bands_in_file
    else:
        parts = _format(path).read_scene(path, "" if reference else variant)
        n_bands = np.shape(parts["image"])[-1]
    if reference:
        # A reference may know a grid of its own; the wavelengths of a scene are those of its image.
        parts = {name: parts[name] for name in ("image", "wavelengths", "fwhm", "mask") if name in parts}
        parts |= _read_reference(reference, np.shape(parts["image"])[:2], variant)
        if np.shape(parts.get("endmembers", ()))[1:] == (n_bands,):
            parts["endmembers"] = np.asarray(parts["endmembers"])[:, bands]  # of all bands of the file
    if mask is not None:
        parts["mask"] = mask
    return Scene(**parts, name=path.stem)


def open_scene_file(path: PathLike, *, drop: Intervals = WATER_VAPOUR, wavelengths: np.ndarray | None = None) -> SceneFile:
    """Look at a sensor's file that may be larger than memory: nothing of it is held.

    Parameters
    ----------
    path, drop, wavelengths
        As of `open_scene`; a file that a sensor writes.

    Raises
    ------
    InputError
        As `open_scene`, or a prepared scene (`.npz`, `.mat`), which is always read whole.
    """
    path = _existing(path)
    if (sensor := _sensor_format(path)) is None:
        raise InputError(f"a sensor's file ({', '.join(_CUBES)})", f"'{path.name}'", "open it whole, with open_scene")
    return SceneFile.of(path, sensor.open_cube, drop, wavelengths)


def is_sensor_file(path: PathLike) -> bool:
    """Whether `open_scene_file` reads it, by its name."""
    return _sensor_format(Path(path)) is not None


def open_reference(path: PathLike | Sequence[PathLike], like: xr.Dataset | xr.DataArray, *,
                   variant: str = "") -> xr.Dataset:
    """Open reference abundances and endmembers without an image.

    Parameters
    ----------
    path
        The file or files, as `reference` of `open_scene`. A whole scene will do.
    like
        What the reference is for: anything with coordinates `y`, `x` and `wavelength`, such as a summary or
        `Scene.reflectance`. It gives the size to arrays that carry none, and its coordinates to the result.
    variant
        As in `open_scene`.

    Returns
    -------
    xr.Dataset
        Like `Scene.reference`: `abundances` (y, x, endmember) and `endmembers` (endmember, wavelength), or one of them, and
        `brightness` (y, x) where the file has it.

    Raises
    ------
    InputError
        As `open_scene`, or a reference of another size than `like`.
    """
    coords = {dim: like[dim] for dim in ("y", "x", "wavelength")}
    rows, cols, bands = (coord.size for coord in coords.values())
    blank = xr.DataArray(np.broadcast_to(np.float32(0), (rows, cols, bands)), coords=coords, dims=tuple(coords))
    parts = _read_reference(_existing_all(path), (rows, cols), variant)
    reference = check_reference(parts.get("abundances"), parts.get("endmembers"), parts.get("names"), blank,
                                parts.get("brightness"))
    assert reference is not None  # the readers refuse a file that holds none
    return reference


def save_scene(scene: Scene, path: PathLike) -> None:
    """Write `scene` as an `.npz` that `open_scene` and `numpy.load` read: image, mask, wavelengths, reference.

    Raises
    ------
    InputError
        Another extension than `.npz`, or a place that cannot be written to.
    """
    path = Path(path).expanduser()
    if path.suffix.lower() != ".npz":
        raise InputError("a file name that ends in .npz", f"'{path.name}'", f"call it {path.stem}.npz")
    npz.write_scene(scene, path)


def _read_reference(paths: list[Path], size: tuple[int, int], variant: str) -> dict:
    formats = {_format(path) for path in paths}
    if len(formats) != 1:
        raise InputError("reference files of one format", ", ".join(path.name for path in paths) or "none")
    parts = formats.pop().read_reference(paths, size, variant)
    return {name: parts[name] for name in ("abundances", "endmembers", "names", "brightness") if name in parts}


def _existing_all(paths: PathLike | Sequence[PathLike]) -> list[Path]:
    return [_existing(path) for path in ([paths] if isinstance(paths, str | os.PathLike) else paths)]


def _existing(path: PathLike) -> Path:
    path = Path(path).expanduser()
    if not path.is_file() and not (path.is_dir() and path.suffix.lower() == ".zarr"):
        raise InputError(f"a file ({_known()})", f"'{path}', which is a folder" if path.is_dir() else
                         f"'{path}', which does not exist", "check the path")
    return path


def _sensor_format(path: Path) -> ModuleType | None:
    """The module of a sensor's format. Images of ENVI may be called anything, and are known by the header beside them."""
    suffix = path.suffix.lower()
    if suffix not in _CUBES and suffix not in _FORMATS and envi.has_header(path):
        return envi
    return _CUBES.get(suffix)


def _format(path: Path) -> ModuleType:
    try:
        return _FORMATS[path.suffix.lower()]
    except KeyError:
        raise InputError(f"a file of a known format ({_known()})", f"'{path.name}'",
                         "convert it, or build a Scene from its array") from None


def _known() -> str:
    return ", ".join([*_FORMATS, *_CUBES])


def _refuse_variant(variant: str, reference: list[Path], path: Path) -> None:
    if variant and not reference:
        raise InputError("no variant: a sensor's file holds no reference", f"variant '{variant}' of '{path.name}'",
                         "give the file of the reference as reference=")
