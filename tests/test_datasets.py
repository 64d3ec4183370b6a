"""Named scenes and libraries: the local folder first, then downloads, here from a server of our own."""

from __future__ import annotations

import hashlib
import http.server
import io
import logging
import os
import socket
import threading
from pathlib import Path

import numpy as np
import pooch
import pytest
import scipy.io

from pyro_unmix import datasets, downloads, libraries
from pyro_unmix.datasets import Dataset, dataset_names, fetch_dataset, load_dataset
from pyro_unmix.errors import InputError
from pyro_unmix.io import matlab, matlab_library, open_scene, save_scene
from pyro_unmix.libraries import LibrarySource, library_names, load_library
from pyro_unmix.library import open_library
from pyro_unmix.scene import Scene

DATA = os.environ.get("PYRO_UNMIX_DATA")
real = pytest.mark.skipif(not (DATA and (Path(DATA) / "original").is_dir()), reason="PYRO_UNMIX_DATA has no original/")
IMAGE = np.random.default_rng(0).uniform(0.1, 1, (4, 3, 5)).astype(np.float32)


class Site:
    """A web site in place of the real one: what is on which address, and what has been asked for."""

    def __init__(self):
        self.pages: dict[str, bytes] = {}
        self.asked: list[str] = []


@pytest.fixture
def cache(tmp_path, monkeypatch):
    """An empty cache, and no local folder."""
    monkeypatch.delenv("PYRO_UNMIX_DATA", raising=False)
    monkeypatch.setattr(downloads, "cache_folder", lambda: tmp_path / "cache")
    return tmp_path / "cache"


@pytest.fixture
def site(monkeypatch):
    site = Site()

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self):
            address = self.path[1:]
            site.asked.append(address)
            content = site.pages.get(address, b"")
            self.send_response(200 if address in site.pages else 404)
            self.send_header("Content-Length", str(len(content)))
            self.end_headers()
            self.wfile.write(content)

        def log_message(self, *_):
            pass

    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        monkeypatch.setattr(downloads, "_SITE", f"http://127.0.0.1:{server.server_port}/")
        monkeypatch.setenv("NO_PROXY", "127.0.0.1")
        yield site
        server.shutdown()
        thread.join()


def sha256(content):
    return "sha256:" + hashlib.sha256(content).hexdigest()


def git(content):
    return "git:" + hashlib.sha1(f"blob {len(content)}\0".encode() + content).hexdigest()


def mat(**variables):
    buffer = io.BytesIO()
    scipy.io.savemat(buffer, variables)
    return buffer.getvalue()


@pytest.fixture(params=[sha256, git], ids=["sha256", "git"])
def tiny(request, cache, site, monkeypatch):
    """A scene called "tiny", of one file at the address owner/tiny.mat of `site`."""
    content = mat(cube=IMAGE)
    site.pages["owner/tiny.mat"] = content
    monkeypatch.setitem(downloads.FILES, "tiny.mat", ("owner/tiny.mat", request.param(content)))
    monkeypatch.setitem(datasets._DATASETS, "tiny", Dataset("for this test", ("tiny.mat",),
                                                            lambda get, variant: matlab.read_scene(get("tiny.mat"))))


@pytest.fixture
def tiny_library(cache, site, monkeypatch):
    """A library called "tiny", of one file, in micrometres and not in order."""
    table = np.array([[0.5, 0.01, 1, 0.3, 0.4], [0.4, 0.01, 2, 0.1, 0.2]])
    content = mat(datalib=table, names=np.array(["wavelength", "resolution", "channel", "clay", "lime"]))
    site.pages["owner/lib.mat"] = content
    monkeypatch.setitem(downloads.FILES, "lib.mat", ("owner/lib.mat", sha256(content)))
    monkeypatch.setitem(libraries._LIBRARIES, "tiny", LibrarySource(
        "for this test", "library_tiny_2", ("lib.mat",), lambda get: matlab_library.read_library(get("lib.mat"))))


def test_everything_has_a_name_and_a_line():
    names, of_spectra = dataset_names(), library_names()
    assert {"samson", "jasper_ridge", "urban_crop", "cuprite_crop", "muufl_crop", "sim1", "dc1"} <= names.keys()
    assert of_spectra.keys() == {"usgs1995", "usgs_splib06", "usgs_splib07", "berlin"} and not names.keys() & of_spectra.keys()
    assert all(0 < len(line) < 100 and "\n" not in line for line in (names | of_spectra).values())


def test_every_file_is_pinned():
    for address, checksum in downloads.FILES.values():
        commit = address.split("/")[2]
        kind, digest = checksum.split(":")
        assert len(commit) == 40 and len(digest) == {"sha256": 64, "git": 40}[kind]
        int(commit, 16), int(digest, 16)
    used = [file for source in [*datasets._DATASETS.values(), *libraries._LIBRARIES.values()] for file in source.files]
    assert set(used) == set(downloads.FILES)


def test_the_local_folder_comes_first(tmp_path, cache, site, monkeypatch):
    monkeypatch.setenv("PYRO_UNMIX_DATA", str(tmp_path))
    abundances = np.full((4, 3, 2), 0.5, np.float32)
    save_scene(Scene(IMAGE, abundances=abundances), tmp_path / "samson.npz")
    scene = load_dataset("samson")
    np.testing.assert_array_equal(scene.reflectance, IMAGE)
    assert scene.name == "samson" and fetch_dataset("samson") == [tmp_path / "samson.npz"]
    with pytest.raises(InputError, match="variant 'alt'"):
        load_dataset("samson", variant="alt")
    assert site.asked == []
    with pytest.raises(InputError, match="status 404"):
        load_dataset("dc1")


def test_a_file_is_downloaded_once_and_quietly(tiny, cache, site, capfd, caplog):
    level = pooch.get_logger().level
    with caplog.at_level(logging.DEBUG):
        assert fetch_dataset("tiny") == [cache / "tiny.mat"]
        scene = load_dataset("tiny")
    np.testing.assert_array_equal(scene.reflectance, IMAGE)
    assert scene.name == "tiny" and site.asked == ["owner/tiny.mat"]
    assert capfd.readouterr() == ("", "") and pooch.get_logger().level == level
    assert not [record for record in caplog.records if record.name == "pooch"]


def test_a_wrong_file_is_refused_and_not_kept(tiny, cache, site):
    site.pages["owner/tiny.mat"] = mat(cube=IMAGE * 2)
    for _ in range(2):
        with pytest.raises(InputError, match=r"checksum.*another one.*tiny\.mat.*PYRO_UNMIX_DATA") as error:
            load_dataset("tiny")
        assert "\n" not in str(error.value) and not list(cache.iterdir())


@pytest.mark.parametrize("tiny", [sha256], indirect=True)
def test_a_wrong_file_in_the_cache_is_downloaded_again(tiny, cache, site):
    cache.mkdir()
    (cache / "tiny.mat").write_bytes(b"half a file")
    np.testing.assert_array_equal(load_dataset("tiny").reflectance, IMAGE)


def test_a_library_is_downloaded_once(tiny_library, cache, site):
    assert fetch_dataset("tiny") == [cache / "lib.mat"]
    library = load_library("tiny")
    assert library.names == ["clay", "lime"] and library.wavelengths.tolist() == [400, 500] and library.fwhm.tolist() == [10, 10]
    np.testing.assert_array_equal(library.spectra, np.float32([[0.1, 0.3], [0.2, 0.4]]))
    assert site.asked == ["owner/lib.mat"]


def test_a_library_in_the_local_folder_comes_first(tiny_library, tmp_path, site, monkeypatch):
    monkeypatch.setenv("PYRO_UNMIX_DATA", str(tmp_path))
    np.savez(tmp_path / "library_tiny_2.npz", spectra=np.full((1, 3), 0.5), names=["chalk"])
    assert load_library("tiny").names == ["chalk"] and fetch_dataset("tiny") == [tmp_path / "library_tiny_2.npz"]
    assert site.asked == []


def test_a_wrong_library_is_refused(tiny_library, cache, site):
    site.pages["owner/lib.mat"] = b"another"
    with pytest.raises(InputError, match=r"checksum.*another one.*lib\.mat.*PYRO_UNMIX_DATA"):
        load_library("tiny")
    del site.pages["owner/lib.mat"]
    with pytest.raises(InputError, match=r"status 404; save it by hand as"):
        load_library("tiny")


def test_what_is_kept_of_a_usgs_library():
    """Gaps of up to ten bands are filled in the order of wavelength, which is not that of the bands."""
    wavelengths = np.r_[np.arange(0.4, 1.0, 0.05), 0.62, 0.72]
    line = 0.2 + 0.5 * wavelengths
    gap, wide, bright, dark = (line.copy() for _ in range(4))
    gap[[4, 5, -2]], wide[:11], bright[3], dark[3] = -1.23e34, np.nan, 1.7, -0.1
    names = ["Wavelengths in microns 224ch", "whole", "error bars to preceding", "gap", "wide", "bright", "dark"]
    kept = libraries._usgs_spectra({"spectra": np.stack([wavelengths, line, line, gap, wide, bright, dark]), "names": names,
                                    "wavelengths": wavelengths})
    assert kept["names"] == ["whole", "gap"]
    np.testing.assert_allclose(kept["spectra"], [line, line], rtol=1e-12)


def test_without_a_network(tiny, cache, site, monkeypatch):
    with socket.socket() as closed:
        closed.bind(("127.0.0.1", 0))
        monkeypatch.setattr(downloads, "_SITE", f"http://127.0.0.1:{closed.getsockname()[1]}/")
        with pytest.raises(InputError, match=r"an answer from http.*ConnectionError; save it by hand as") as error:
            load_dataset("tiny")
    assert str(cache / "tiny.mat") in str(error.value) and "\n" not in str(error.value)
    # What the message advises works.
    cache.mkdir(exist_ok=True)
    (cache / "tiny.mat").write_bytes(site.pages["owner/tiny.mat"])
    np.testing.assert_array_equal(load_dataset("tiny").reflectance, IMAGE)


def test_a_cache_that_cannot_be_written_to(tiny, cache):
    cache.write_text("a file, not a folder")
    with pytest.raises(InputError, match="a writable cache"):
        load_dataset("tiny")


def test_names_and_variants_that_do_not_exist(cache):
    with pytest.raises(InputError, match=r"samson, jasper_ridge.*'salinas'.*open_scene"):
        load_dataset("salinas")
    with pytest.raises(InputError, match="'salinas'"):
        fetch_dataset("salinas")
    with pytest.raises(InputError, match=r"usgs1995, usgs_splib06.*'samson'.*open_library"):
        load_library("samson")
    with pytest.raises(InputError, match="'berlin'; a library is loaded with load_library"):
        load_dataset("berlin")
    with pytest.raises(InputError, match=r"urban_crop \(4, 5\).*'6'"):
        load_dataset("urban_crop", variant="6")
    for call in (load_dataset, fetch_dataset):
        with pytest.raises(InputError, match=r"muufl_crop\.npz.*PYRO_UNMIX_DATA"):
            call("muufl_crop")


@pytest.fixture
def published(site):
    """The files as published, on the addresses they were published at."""
    contents = [path.read_bytes() for path in (Path(DATA) / "original").iterdir()]
    by_checksum = {sha256(content): content for content in contents}
    for address, checksum in downloads.FILES.values():
        if checksum in by_checksum:
            site.pages[address] = by_checksum[checksum]
    return site


@real
@pytest.mark.parametrize("name", ["samson", "jasper_ridge", "urban_crop", "cuprite_crop", "sim1", "dc1"])
def test_what_is_downloaded_equals_the_local_file(name, cache, published):
    files = [path.name for path in fetch_dataset(name)]
    assert sorted(published.asked) == sorted(downloads.FILES[file][0] for file in files)
    for variant in ("", *datasets._DATASETS[name].variants):
        built, local = load_dataset(name, variant=variant), open_scene(Path(DATA) / f"{name}.npz", variant=variant)
        np.testing.assert_allclose(built.reflectance, local.reflectance, rtol=1e-6)
        np.testing.assert_allclose(built.wavelengths, local.wavelengths)
        assert built.reference.keys() == local.reference.keys()
        for kind in built.reference:
            np.testing.assert_allclose(built.reference[kind], local.reference[kind], rtol=1e-6, atol=1e-7)
        assert list(built.reference.endmember.values) == list(local.reference.endmember.values)
    assert len(published.asked) == len(files)


@real
@pytest.mark.parametrize("name, k, file, layout", [
    ("urban", 6, "Urban_R162.mat", lambda cube: {"Y": cube.reshape(-1, 162, order="F").T, "nRow": 307, "nCol": 307}),
    ("apex", 4, "apex_Y_clean.mat", lambda cube: {"Y_clean": cube}),
])
def test_scenes_whose_image_is_only_online(name, k, file, layout, cache, published, monkeypatch):
    """The image is made here from its published reference: what is tested is that the two are laid side by side."""
    truth = np.load(Path(DATA) / f"{name}_gt{'_full' if name == 'urban' else ''}.npz")
    content = mat(**layout(truth["abundances"] @ truth["endmembers"]))
    address, _ = downloads.FILES[file]
    published.pages[address] = content
    monkeypatch.setitem(downloads.FILES, file, (address, git(content)))
    scene = load_dataset(name)
    assert scene.reference.sizes["endmember"] == k
    assert list(scene.reference.endmember.values) == list(truth["names"])
    np.testing.assert_allclose(scene.wavelengths, truth["wavelengths"])
    fitted = scene.reference.abundances.values[::9, ::7] @ scene.reference.endmembers.values
    np.testing.assert_allclose(scene.reflectance.values[::9, ::7], fitted, atol=1e-6)


@real
@pytest.mark.parametrize("name", ["usgs1995", "usgs_splib06", "usgs_splib07", "berlin"])
def test_a_library_that_is_downloaded_equals_the_local_file(name, cache, published, monkeypatch):
    source, built = libraries._LIBRARIES[name], load_library(name)
    assert sorted(published.asked) == sorted(downloads.FILES[file][0] for file in source.files)
    assert fetch_dataset(name) == [cache / file for file in source.files]
    twin = open_library(Path(DATA) / f"{source.local}.npz")
    np.testing.assert_allclose(built.spectra, twin.spectra, rtol=1e-6)
    np.testing.assert_allclose(built.wavelengths, twin.wavelengths)
    assert built.names == twin.names
    monkeypatch.setenv("PYRO_UNMIX_DATA", DATA)
    assert load_library(name).names == twin.names and len(published.asked) == len(source.files)
