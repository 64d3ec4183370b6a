"""Public benchmark scenes by name.

What a scene needs beyond its files (which bands, which unit, which way round) was settled once against copies of other
origin and against its reference, and is written in the function that builds it.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from pyro_unmix.downloads import Get, local, published
from pyro_unmix.errors import InputError
from pyro_unmix.io import matlab, open_scene
from pyro_unmix.libraries import fetch_library, library_names
from pyro_unmix.scene import Scene


@dataclass(frozen=True)
class Dataset:
    """What a named scene is made of: `build(get, variant)` returns the parts of a `Scene`, `get` a file's path."""

    description: str
    files: tuple[str, ...] = ()
    build: Callable[[Get, str], dict] | None = None
    variants: tuple[str, ...] = ()


def load_dataset(name: str, *, variant: str = "") -> Scene:
    """A public benchmark scene with its reference.

    Parameters
    ----------
    name
        One of `dataset_names()`. `<name>.npz` in the folder that the environment variable `PYRO_UNMIX_DATA` names is
        taken if it is there; else the authors' files are downloaded, once, into the user's cache.
    variant
        Another reference of the same scene: "alt" (samson: MiSiCNet's, on the scale of the image; cuprite_crop: three
        minerals), "resampled" (cuprite_crop: the 12 minerals on the wavelengths of the image, which they are 33 nm
        off by default), "4" or "5" (urban: with so many endmembers).

    Raises
    ------
    InputError
        Unknown name or variant, no network, or a file that is not the one that was published.
    """
    dataset, path = _dataset(name), local(name)
    if path is not None:
        return open_scene(path, variant=variant)
    if variant and variant not in dataset.variants:
        raise InputError(f"a reference of {name} ({', '.join(dataset.variants) or 'only the default'})",
                         f"variant '{variant}'", "leave it out for the default")
    return Scene(**_build(name, dataset)(published, variant), name=name)


def fetch_dataset(name: str) -> list[Path]:
    """The files of a scene or a library on this machine, downloaded where they are missing; raises as `load_dataset`."""
    if name in library_names():
        return fetch_library(name)
    dataset, path = _dataset(name), local(name)
    if path is not None:
        return [path]
    _build(name, dataset)
    return [published(file) for file in dataset.files]


def dataset_names() -> dict[str, str]:
    """The names of the scenes, each with a description of one line."""
    return {name: dataset.description for name, dataset in _DATASETS.items()}


def _samson(get: Get, variant: str) -> dict:
    parts = matlab.read_scene(get("samson.mat"))
    if variant == "alt":
        parts |= matlab.read_reference([get("samson_rasti_A_true.mat"), get("samson_rasti_E.mat")], (95, 95))
    return parts | {"names": ["Soil", "Tree", "Water"], "wavelengths": np.linspace(401, 889, 156)}


def _jasper_ridge(get: Get, variant: str) -> dict:
    path = get("JasperRidge2_R198.mat")
    kept = matlab.read_arrays(path)["SlectBands"].ravel().astype(int)
    parts = matlab.read_scene(path) | matlab.read_reference([get("JasperRidge2_end4.mat")], (100, 100))
    return parts | {"names": ["Tree", "Water", "Dirt", "Road"], "wavelengths": _aviris(get)[kept - 1]}


def _urban_crop(get: Get, variant: str) -> dict:
    # The anomaly-detection crop is stored (column, row, band); it is rows 0-79, columns 186-285 of the whole scene.
    image = matlab.read_scene(get("HYDICE_data.mat"))["image"].transpose(1, 0, 2) / 1000
    parts = _urban_reference(get, variant)
    return parts | {"image": image, "abundances": parts["abundances"][:80, 186:286]}


def _urban(get: Get, variant: str) -> dict:
    return matlab.read_scene(get("Urban_R162.mat")) | _urban_reference(get, variant)


def _urban_reference(get: Get, variant: str) -> dict:
    parts = matlab.read_reference([get(f"Urban_end{variant or 6}.mat")], (307, 307))
    # 162 of 210 channels; their true centres were never published, these are evenly spaced.
    kept = np.r_[5:76, 77:87, 88:101, 112:136, 154:198]
    return parts | {"wavelengths": np.linspace(400, 2500, 210)[kept - 1]}


def _cuprite_crop(get: Get, variant: str) -> dict:
    image = matlab.read_scene(get("Rcuprite50x90x188.mat"))["image"] / 10000
    path = get("Cuprite12_groundTruth.mat")
    minerals = matlab.read_arrays(path)
    # The crop does not say which channels it has kept: these are the usual 188, which put its 2.2 um feature right.
    wavelengths = _aviris(get)[minerals["slctBnds"].ravel().astype(int) - 1]
    if variant == "alt":
        spectra = next(iter(matlab.read_arrays(get("cuprite_3_minerals.mat")).values()))
        reference = {"endmembers": spectra.T, "names": ["Desert Varnish", "Montmorillonite", "Alunite"]}
    else:
        reference = matlab.read_reference([path], (50, 90))
    if variant == "resampled":
        grid = minerals["waveLength"].ravel() * 1000
        order = np.argsort(grid)
        reference["endmembers"] = np.stack([np.interp(wavelengths, grid[order], m[order]) for m in minerals["M"].T])
    return reference | {"image": image, "wavelengths": wavelengths}


def _sim1(get: Get, variant: str) -> dict:
    parts = matlab.read_scene(get("sim1_Y_clean.mat"))
    parts |= matlab.read_reference([get("sim1_A_true.mat"), get("sim1_E.mat")], (105, 105))
    names = ["Olivine KI3291  <60um", "Adularia GDS57 Orthoclase", "Monticellite HS339.3B",
             "Jarosite GDS100 Na,Sy 90C", "Muscovite GDS116 Tanzania", "Cookeite CAr-1.a 104-150u"]
    return parts | {"names": names, "wavelengths": _usgs_1995(get)}


def _dc1(get: Get, variant: str) -> dict:
    parts = matlab.read_scene(get("dc1_Y_clean.mat"))
    parts |= matlab.read_reference([get("dc1_XT.mat"), get("dc1_EE.mat")], (75, 75))
    names = ["Jarosite GDS101 Na,Sy 200", "Anorthite HS349.3B", "Calcite WS272", "Alunite GDS83 Na63",
             "Howlite GDS155"]
    return parts | {"names": names, "wavelengths": np.sort(_usgs_1995(get))}


def _apex(get: Get, variant: str) -> dict:
    parts = matlab.read_scene(get("apex_Y_clean.mat"))
    parts |= matlab.read_reference([get("apex_A_true.mat"), get("apex_E.mat")], (111, 122))
    wavelengths = matlab.read_arrays(get("DeepTrans_Wavelengths.mat"))["lambda_Apex"]
    return parts | {"names": ["Road", "Tree", "Roof", "Water"], "wavelengths": wavelengths}


def _aviris(get: Get) -> np.ndarray:
    return matlab.read_arrays(get("AVIRIS_wavelengths.mat"))["AVIRIS_wavlen"].ravel()


def _usgs_1995(get: Get) -> np.ndarray:
    return matlab.read_arrays(get("USGS_1995_Library.mat"))["datalib"][:, 0] * 1000


_URBAN_REFERENCES = ("Urban_end6.mat", "Urban_end5.mat", "Urban_end4.mat")
_DATASETS = {
    "samson": Dataset("95 x 95 pixels, 156 bands; soil, tree, water, each endmember scaled to maximum 1.",
                      ("samson.mat", "samson_rasti_A_true.mat", "samson_rasti_E.mat"), _samson, ("alt",)),
    "jasper_ridge": Dataset("AVIRIS, 100 x 100 pixels, 198 bands; tree, water, dirt, road.",
                            ("JasperRidge2_R198.mat", "JasperRidge2_end4.mat", "AVIRIS_wavelengths.mat"),
                            _jasper_ridge),
    "urban_crop": Dataset("HYDICE Urban, 80 x 100 of its pixels, 162 bands; 6 materials (or 5, or 4).",
                          ("HYDICE_data.mat", *_URBAN_REFERENCES), _urban_crop, ("4", "5")),
    "urban": Dataset("HYDICE Urban, 307 x 307 pixels, 162 bands; 6 materials (or 5, or 4).",
                     ("Urban_R162.mat", *_URBAN_REFERENCES), _urban, ("4", "5")),
    "cuprite_crop": Dataset("AVIRIS Cuprite, 50 x 90 pixels, 188 bands; spectra of 12 minerals, no abundances.",
                            ("Rcuprite50x90x188.mat", "Cuprite12_groundTruth.mat", "cuprite_3_minerals.mat",
                             "AVIRIS_wavelengths.mat"), _cuprite_crop, ("alt", "resampled")),
    "muufl_crop": Dataset("MUUFL Gulfport, 90 x 90 pixels, 64 bands; 5 materials. From a local file only."),
    "apex": Dataset("APEX, 111 x 122 pixels, 285 bands; road, tree, roof, water.",
                    ("apex_Y_clean.mat", "apex_A_true.mat", "apex_E.mat", "DeepTrans_Wavelengths.mat"), _apex),
    "sim1": Dataset("simulated, 105 x 105 pixels, 224 bands, 6 minerals, no pure pixel, no noise.",
                    ("sim1_Y_clean.mat", "sim1_A_true.mat", "sim1_E.mat", "USGS_1995_Library.mat"), _sim1),
    "dc1": Dataset("simulated, 75 x 75 pixels, 224 bands, 5 minerals of a library of 240, no noise.",
                   ("dc1_Y_clean.mat", "dc1_XT.mat", "dc1_EE.mat", "USGS_1995_Library.mat"), _dc1),
}


def _dataset(name: str) -> Dataset:
    if name not in _DATASETS:
        raise InputError(f"one of the scenes {', '.join(_DATASETS)}", f"'{name}'",
                         "a library is loaded with load_library" if name in library_names() else
                         "a file of your own is opened with open_scene")
    return _DATASETS[name]


def _build(name: str, dataset: Dataset) -> Callable[[Get, str], dict]:
    if dataset.build is None:
        raise InputError(f"{name}.npz in the folder that PYRO_UNMIX_DATA names", "no such file",
                         "this scene has no address that it could be downloaded from")
    return dataset.build
