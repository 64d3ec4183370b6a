"""Files that others have published: from a local folder first, else downloaded once and checked.

They come from where their authors published them, at a fixed commit; nothing is redistributed here.
"""

from __future__ import annotations

import hashlib
import os
import sys
from collections.abc import Callable
from pathlib import Path

import pooch
import requests

from pyro_unmix.errors import InputError

_SITE = "https://raw.githubusercontent.com/"
_MISICNET = "BehnoodRasti/MiSiCNet/1bc6afc1b0d4dece712825a19ffe67655509ca0b/HS%20Data/"
_SUNAA = "BehnoodRasti/SUnAA/5bbeb9eecff8d168e4c28d9ee4f14e8456ea7d68/data/DC1/"
_PGMSU = "shuaikaishi/PGMSU/a33e631811fcccf0bab515f693262ec35c3e5f3e/dataset/"
_PYCOAL = "capstone-coal/pycoal/dd461f6b22578c5aeebec2e6cae10ad0babc5c1c/pycoal/tests/"
_ENMAP_BOX = "EnMAP-Box/enmap-box/f9e8f486c9614813410cc9d715bb056e6ad3cfd5/tests/testdata/external/envi/"
_QMV = "LinaZhuang/NMF-QMV_demo/571b93010acc6fbd10aff3f3fe07b1172f2eeb09/"

# Name in the cache: address below the site, checksum (sha256, or that of the git blob where the file itself was out of
# reach when this table was made).
FILES = {
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


def cache_folder() -> Path:
    """Where downloads are kept."""
    return Path(pooch.os_cache("pyro_unmix"))


def local(name: str) -> Path | None:
    """`<name>.npz` in the folder that the environment variable `PYRO_UNMIX_DATA` names, if it is there."""
    folder = os.environ.get("PYRO_UNMIX_DATA")
    path = Path(folder or ".").expanduser() / f"{name}.npz"
    return path if folder and path.is_file() else None


def published(file: str) -> Path:
    """The path of one of `FILES` in the cache, downloaded if it is not there or not the right one.

    Raises
    ------
    InputError
        No network, a cache that cannot be written, or a file that is not the one that was published.
    """
    address, checksum = FILES[file]
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
