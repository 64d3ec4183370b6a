"""Public benchmark scenes and spectral libraries by name: from a local folder first, else downloaded once and checked.

The files come from where their authors published them, at a fixed commit; nothing is redistributed here. What a scene
needs beyond its files (which bands, which unit, which way round) was settled once against copies of other
origin and against its reference, and is written in the function that builds it.
"""

from __future__ import annotations

import hashlib
import os
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pooch
import requests

from pyro_unmix.errors import InputError
from pyro_unmix.io import envi_library, matlab, matlab_library, open_scene
from pyro_unmix.io.library_files import tidy
from pyro_unmix.library import SpectralLibrary, missing, open_library
from pyro_unmix.scene import Scene

_SITE = "https://raw.githubusercontent.com/"
_MISICNET = "BehnoodRasti/MiSiCNet/1bc6afc1b0d4dece712825a19ffe67655509ca0b/HS%20Data/"
_SUNAA = "BehnoodRasti/SUnAA/5bbeb9eecff8d168e4c28d9ee4f14e8456ea7d68/data/DC1/"
_PGMSU = "shuaikaishi/PGMSU/a33e631811fcccf0bab515f693262ec35c3e5f3e/dataset/"
_PYCOAL = "capstone-coal/pycoal/dd461f6b22578c5aeebec2e6cae10ad0babc5c1c/pycoal/tests/"
_ENMAP_BOX = "EnMAP-Box/enmap-box/f9e8f486c9614813410cc9d715bb056e6ad3cfd5/tests/testdata/external/envi/"
_QMV = "LinaZhuang/NMF-QMV_demo/571b93010acc6fbd10aff3f3fe07b1172f2eeb09/"

# Name in the cache: address below the site, checksum (sha256, or that of the git blob where the file itself was out of
# reach when this table was made).
_FILES = {
    "samson.mat": (
        "burknipalsson/hu_autoencoders/8fa704ef8a82cf7f03981392204fe8cd872b0ccf/Datasets/Samson.mat",
        "sha256:49530e80d0dabf6b1fb9cde2d6cf257f89a344afe9c13b2cc912eb22f344de18"),
    "samson_rasti_A_true.mat": (
        _MISICNET + "Samson/A_true.mat", "sha256:d149ce0ff3f7a0b7877e27707e4b38ab4c76984d18541f10500ae7f6ddfda59d"),
    "samson_rasti_E.mat": (
        _MISICNET + "Samson/E.mat", "sha256:4a1faf067e354704d9a26ff954182b00f604762f12a610a2316ffd6b9d68e690"),
    "JasperRidge2_R198.mat": (
        _PGMSU + "JasperRidge2_R198.mat", "sha256:0e4118a6452f6044978a8ca3762fb0f791115467904936d463c4e111e56e682e"),
    "JasperRidge2_end4.mat": (
        _PGMSU + "JasperRidge2_end4.mat", "sha256:92f5697b43705802b904fd13ba99b6ce65a3d203682864abc3fbec922beec374"),
    "HYDICE_data.mat": (
        "xdjiangkai/LREN/6d35f0f9c6175920a53c83074c914f1f018fbb31/datasets/avirs/HYDICE_data.mat",
        "sha256:04a1795af7648b16fb305d3aedbd2e4534b9c0899ecbe7f5b387af2e274b124c"),
    "Urban_R162.mat": (
        "freeLix-YY/IEEE_TGRS2024_SparseUnmixing_SUNNING_demo/0d4f89b8670d62ec54bead2424938d742d7552c7/"
        "Urban/Urban_R162.mat", "git:151a4419d0ce68363415c7ef0718ba2e2dcc2c7c"),
    "Urban_end6.mat": (
        "maxkochanoff/Hyperspectral-Images-Unmixing/8d547144ead823ccc409e660dfc394542875adc8/"
        "datasets/urban/end6_groundTruth.mat",
        "sha256:46f84517c870e8beb8732b10d30218449bae24853590c23cdfb298a7044e7171"),
    "Urban_end5.mat": (
        "GaganaMD/Hyperspectral-Wavenet/0a8f13a15ca9c7df8fe6711b15bdbc02ef530734/data/real/UrbanGT.mat",
        "sha256:286fd5900c14a984552d17b39aa81a41a12369bce59e2b0a6560ef294639cf9d"),
    "Urban_end4.mat": (
        "Mainak21/Hyperspectral-Nonlinear-Unmixing-using-CycleGAN/c48af4ee8c9fa41302307b052aff58d2554ceae8/"
        "Data/groundTruth/end4_groundTruth.mat",
        "sha256:23460f3d4fd4523e2221c8f1895b0bedf0814e88a5a50b1fc6e8e4a0e6b2b2d2"),
    "Rcuprite50x90x188.mat": (
        _QMV + "Rcuprite50x90x188.mat", "sha256:755772e67f6dd58d5bbcb650007f8e22198b46b27c7afcfe74f84b1d8abfc73a"),
    "cuprite_3_minerals.mat": (
        _QMV + "USGS_lib_DesertVanish_Montmorillonite_Alunite_188b.mat",
        "sha256:0d9232cb03853fe2abbf091641aa47d5440ae4ab1af724e44bcea4bfd92fe78f"),
    "Cuprite12_groundTruth.mat": (
        "EASPORTS14/Hyperspectral-unmixing/064bc2a97881b4bb3df61407e3c8999dd50f0924/Cuprite12_groundTruth.mat",
        "sha256:011be17bb753b7d608745d5130fbb1bf326a6cb984421207ef72091fc7a33503"),
    "sim1_Y_clean.mat": (
        _MISICNET + "Sim1/Y_clean.mat", "sha256:a7865df05668f9c8bf791f780c3b57415591c618bac63ec6ef5c88067981d7ee"),
    "sim1_A_true.mat": (
        _MISICNET + "Sim1/A_true.mat", "sha256:7226e98279222ce8b55b08759cce5aa4e521bf2f5fc12ff9174fcdef60d797b4"),
    "sim1_E.mat": (
        _MISICNET + "Sim1/E.mat", "sha256:7575ea437eddc913c12d83b1e923e577fa548cda5c5c3adc753e280fad4db07b"),
    "dc1_Y_clean.mat": (
        _SUNAA + "Y_clean.mat", "sha256:c28230d26616a0b0e2f9934d2efa18266033a1c807f1e7a89f6237db9758dcaa"),
    "dc1_XT.mat": (_SUNAA + "XT.mat", "sha256:2ae49874b71aa3166643e73bac44c789eb57c9cbc9958b4a9cf24198ea9484aa"),
    "dc1_EE.mat": (_SUNAA + "EE.mat", "sha256:0313c9f25f2c699d16aebfa2e9c2dad9c7f4c1122bc3036aaf215fc010c3ef4b"),
    "apex_Y_clean.mat": (_MISICNET + "Apex/Y_clean.mat", "git:4bd0a7222c98bf0b2a3daffc9b77b345522657ca"),
    "apex_A_true.mat": (
        _MISICNET + "Apex/A_true.mat", "sha256:6adfd3ad7525e2b43d8624444c8a1a1a037d6cb29f9b404d62afe33993a80b4e"),
    "apex_E.mat": (
        _MISICNET + "Apex/E.mat", "sha256:8466405085e937898280bb2a180b9d9bb33c8a9d6a59f37111703f0e4dc37286"),
    "DeepTrans_Wavelengths.mat": (
        "preetam22n/DeepTrans-HSU/a1cefda156e34f2b6cc0d90b727d2c60f8a9a6c8/Results/Wavelengths.mat",
        "sha256:1e6302bc69884b8f59396bf34b8efa907c6b14ff079bdf8a73e9ec42bdf47ea1"),
    "AVIRIS_wavelengths.mat": (
        "ricardoborsoi/unmixing_spectral_variability/d069df8ef6f0e5641f9fcf346121931e0c23bc21/"
        "synthetic_data_generation/AVIRIS_wavelengths.mat",
        "sha256:4b583286733d38f6f788cda39b70a7af139c9e89d4e945aa24d8e526c7a48d1b"),
    "USGS_1995_Library.mat": (
        "ricardoborsoi/MUA_SparseUnmixing/089f5d61162807a5304759e293b132ed9d0d6ab4/USGS_1995_Library.mat",
        "sha256:fe2be84e4da2abf6ab00091b36f30a1a8dd247d18a78146f61235c8b5229da63"),
    "s06av95a_envi.hdr": (
        _PYCOAL + "s06av95a_envi.hdr", "sha256:842dd49f31fed0f0ac7a7d882cb41db724c5c00e13fc64dd366610fdfc49f27a"),
    "s06av95a_envi.sli": (
        _PYCOAL + "s06av95a_envi.sli", "sha256:39bf49c99c4b98224dfdd8a0256d07dde083abdb4cbf21a477774a3595e68738"),
    "s07_AV95_envi.hdr": (
        _PYCOAL + "s07_AV95_envi.hdr", "sha256:bb9ecbd607ea0521e605386cf87ae053b464e8af9d9e762151dee4d846221a2a"),
    "s07_AV95_envi.sli": (
        _PYCOAL + "s07_AV95_envi.sli", "sha256:59855cdd6aea92961794b86fa0505528d8d2387a5cf8b60c5ffe5151fe00ff5d"),
    "library_berlin.hdr": (
        _ENMAP_BOX + "library_berlin.hdr", "sha256:ce2cc4ffd4f6a458830e26725c7d9e538e0f1198fe6bc421eb3221caae74ba39"),
    "library_berlin.sli": (
        _ENMAP_BOX + "library_berlin.sli", "sha256:351641cb6fd331077a0fdd9956269b13c415bde559bffd63b6d1ac51b8a45a0f"),
}

Get = Callable[[str], Path]


@dataclass(frozen=True)
class Dataset:
    """What a named scene is made of: `build(get, variant)` returns the parts of a `Scene`, `get` a file's path."""

    description: str
    files: tuple[str, ...] = ()
    build: Callable[[Get, str], dict] | None = None
    variants: tuple[str, ...] = ()


@dataclass(frozen=True)
class LibrarySource:
    """What a named library is made of: `build(get)` returns what a reader would, `local` is its name in the local folder."""

    description: str
    local: str
    files: tuple[str, ...]
    build: Callable[[Get], dict]


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
    dataset, local = _dataset(name), _local(name)
    if local is not None:
        return open_scene(local, variant=variant)
    if variant and variant not in dataset.variants:
        raise InputError(f"a reference of {name} ({', '.join(dataset.variants) or 'only the default'})",
                         f"variant '{variant}'", "leave it out for the default")
    return Scene(**_build(name, dataset)(_get, variant), name=name)


def load_library(name: str) -> SpectralLibrary:
    """A public spectral library.

    Parameters
    ----------
    name
        One of `library_names()`. The `.npz` of this library in the folder that the environment variable `PYRO_UNMIX_DATA` names
        (`library_usgs1995_av224.npz`, `library_usgs_splib06_av95.npz`, `library_usgs_splib07_av95.npz`,
        `library_berlin_urban.npz`) is taken if it is there; else the published files are downloaded, once, into the user's cache.

    Raises
    ------
    InputError
        Unknown name, no network, or a file that is not the one that was published.
    """
    source = _library(name)
    local = _local(source.local)
    return open_library(local) if local is not None else SpectralLibrary(**tidy(source.build(_get)))


def fetch_dataset(name: str) -> list[Path]:
    """The files of a scene or a library on this machine, downloaded where they are missing; raises as `load_dataset`."""
    if name in _LIBRARIES:
        source = _library(name)
        local = _local(source.local)
        return [local] if local is not None else [_get(file) for file in source.files]
    dataset, local = _dataset(name), _local(name)
    if local is not None:
        return [local]
    _build(name, dataset)
    return [_get(file) for file in dataset.files]


def dataset_names() -> dict[str, str]:
    """The names of the scenes, each with a description of one line."""
    return {name: dataset.description for name, dataset in _DATASETS.items()}


def library_names() -> dict[str, str]:
    """The names of the spectral libraries, each with a description of one line."""
    return {name: source.description for name, source in _LIBRARIES.items()}


def cache_folder() -> Path:
    """Where downloads are kept."""
    return Path(pooch.os_cache("pyro_unmix"))


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


def _envi(get: Get, stem: str) -> dict:
    get(f"{stem}.hdr")  # the reader looks for it beside the other
    return envi_library.read_library(get(f"{stem}.sli"))


def _usgs_spectra(parts: dict) -> dict:
    """Without records that are no spectra (error bars, wavelengths, resolution), or out of range, or with many values missing;
    a few are filled from their neighbours in wavelength, because nearly all spectra of one spectrometer lack the last band."""
    spectra, names, wavelengths = parts["spectra"], parts["names"], parts["wavelengths"]
    gaps = missing(spectra)
    order = np.argsort(wavelengths, kind="stable")
    kept = []
    for row, name in enumerate(names):
        if gaps[row].sum() > 10 or name.startswith(("error bars", "Wavelengths in microns", "Resolution in microns")):
            continue
        known = order[~gaps[row, order]]
        spectra[row] = np.where(gaps[row], np.interp(wavelengths, wavelengths[known], spectra[row, known]), spectra[row])
        if spectra[row].min() >= 0 and spectra[row].max() <= 1.6:
            kept.append(row)
    return parts | {"spectra": spectra[kept], "names": [names[row] for row in kept]}


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


_LIBRARIES = {
    "usgs1995": LibrarySource("spectral library: USGS 1995 (splib04), 498 minerals, 224 AVIRIS bands.", "library_usgs1995_av224",
                              ("USGS_1995_Library.mat",),
                              lambda get: matlab_library.read_library(get("USGS_1995_Library.mat"))),
    "usgs_splib06": LibrarySource("spectral library: USGS splib06, 847 minerals and others, 224 AVIRIS bands.",
                                  "library_usgs_splib06_av95", ("s06av95a_envi.hdr", "s06av95a_envi.sli"),
                                  lambda get: _usgs_spectra(_envi(get, "s06av95a_envi"))),
    "usgs_splib07": LibrarySource("spectral library: USGS splib07, 1602 minerals and others, 224 AVIRIS bands.",
                                  "library_usgs_splib07_av95", ("s07_AV95_envi.hdr", "s07_AV95_envi.sli"),
                                  lambda get: _usgs_spectra(_envi(get, "s07_AV95_envi"))),
    "berlin": LibrarySource("spectral library: Berlin urban surfaces, 75 spectra, 177 EnMAP bands.", "library_berlin_urban",
                            ("library_berlin.hdr", "library_berlin.sli"),
                            lambda get: _envi(get, "library_berlin") | {"scale": 10_000.0}),
}


def _dataset(name: str) -> Dataset:
    if name not in _DATASETS:
        raise InputError(f"one of the scenes {', '.join(_DATASETS)}", f"'{name}'",
                         "a library is loaded with load_library" if name in _LIBRARIES else
                         "a file of your own is opened with open_scene")
    return _DATASETS[name]


def _library(name: str) -> LibrarySource:
    if name not in _LIBRARIES:
        raise InputError(f"one of the spectral libraries {', '.join(_LIBRARIES)}", f"'{name}'",
                         "a file of your own is opened with open_library")
    return _LIBRARIES[name]


def _local(name: str) -> Path | None:
    folder = os.environ.get("PYRO_UNMIX_DATA")
    path = Path(folder or ".").expanduser() / f"{name}.npz"
    return path if folder and path.is_file() else None


def _build(name: str, dataset: Dataset) -> Callable[[Get, str], dict]:
    if dataset.build is None:
        raise InputError(f"{name}.npz in the folder that PYRO_UNMIX_DATA names", "no such file",
                         "this scene has no address that it could be downloaded from")
    return dataset.build


def _get(file: str) -> Path:
    """The path of a file in the cache, downloaded if it is not there or not the right one."""
    address, checksum = _FILES[file]
    url, path = _SITE + address, cache_folder() / file
    advice = f"save it by hand as {path}, or set PYRO_UNMIX_DATA to a folder with the .npz that load_dataset or load_library name"
    logger = pooch.get_logger()
    level = logger.level
    logger.setLevel("WARNING")
    try:
        pooch.retrieve(url, checksum if checksum.startswith("sha256:") else None, fname=file, path=path.parent,
                       progressbar=sys.stderr.isatty())
        if checksum.startswith("git:") and checksum != _git_checksum(path):
            path.unlink()
            raise ValueError("git checksum")
    except requests.RequestException as error:
        status = f"status {error.response.status_code}" if error.response is not None else type(error).__name__
        raise InputError(f"an answer from {url}", status, advice) from error
    except ValueError as error:
        raise InputError(f"the file with checksum {checksum}", f"another one from {url}", advice) from error
    except OSError as error:
        raise InputError("a writable cache", f"'{path}': {error.strerror or type(error).__name__}", advice) from error
    finally:
        logger.setLevel(level)
    return path


def _git_checksum(path: Path) -> str:
    """What git calls the content of a file: the SHA-1 of its length and its bytes."""
    content = path.read_bytes()
    return "git:" + hashlib.sha1(b"blob %d\0" % len(content) + content).hexdigest()
