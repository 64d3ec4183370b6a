"""Every known `.mat` layout: made here in both file versions, and as published where the files are at hand."""

from __future__ import annotations

import os
import zlib
from pathlib import Path

import h5py
import numpy as np
import pytest
import scipy.io

from pyro_unmix.errors import InputError, UnmixWarning
from pyro_unmix.io import open_reference, open_scene
from pyro_unmix.scene import Scene

# Not square, and no two sizes alike: a wrong order or a swapped axis cannot pass.
ROWS, COLS, BANDS, K = 5, 3, 7, 2
RNG = np.random.default_rng(1)
MAPS = RNG.dirichlet(np.ones(K), (ROWS, COLS)).astype(np.float32)
SPECTRA = RNG.uniform(0.1, 1, (K, BANDS)).astype(np.float32)
IMAGE = MAPS @ SPECTRA
CELL = ["1-Soil", "2-Dry grass"]


def columns_first(cube):
    """`(channels, N)`, pixels down the columns, as MATLAB's reshape gives them."""
    return cube.reshape(-1, cube.shape[2], order="F").T


def rows_first(cube):
    return cube.reshape(-1, cube.shape[2]).T


def write_v5(path, variables):
    def cell(texts):
        out = np.empty((len(texts), 1), object)
        out[:, 0] = texts
        return out

    scipy.io.savemat(path, {name: cell(v) if isinstance(v, list) else v for name, v in variables.items()})
    return path


def write_v73(path, variables):
    """What MATLAB writes: arrays transposed, text as uint16, cells as references into #refs#."""
    with h5py.File(path, "w", userblock_size=512) as file:
        for name, value in variables.items():
            put_v73(file, name, value)
    return path


def put_v73(file, name, value):
    if isinstance(value, dict):
        for key, member in value.items():
            put_v73(file, f"{name}/{key}", member)
        file[name].attrs["MATLAB_class"] = np.bytes_("struct")
    elif isinstance(value, str):
        file[name] = np.array([[ord(letter)] for letter in value], np.uint16)
        file[name].attrs["MATLAB_class"] = np.bytes_("char")
    elif isinstance(value, list):
        refs = []
        for i, item in enumerate(value):
            put_v73(file, f"#refs#/{name}{i}", item)
            refs.append(file[f"#refs#/{name}{i}"].ref)
        file.create_dataset(name, data=np.array([refs], dtype=object), dtype=h5py.ref_dtype)
        file[name].attrs["MATLAB_class"] = np.bytes_("cell")
    else:
        file[name] = np.atleast_2d(value).T
        file[name].attrs["MATLAB_class"] = np.bytes_("double")


write = pytest.mark.parametrize("write", [write_v5, write_v73])
SIZED = {"nRow": ROWS, "nCol": COLS}
SCENES = {
    "zhu": {"V": columns_first(IMAGE), **SIZED, "nBand": 99},
    "zhu counts": {"Y": columns_first(IMAGE) * 5000, **SIZED, "maxValue": 5000, "SlectBands": np.arange(BANDS) + 4},
    "zhu all bands": {"Y": np.insert(columns_first(IMAGE), [0, 3], 9, axis=0), **SIZED,
                      "SlectBands": np.array([2, 3, 4, 6, 7, 8, 9])},
    "zhu in one": {"Y": columns_first(IMAGE), **SIZED, "A": columns_first(MAPS), "M": SPECTRA.T, "cood": CELL},
    "palsson": {"Y": columns_first(IMAGE), "GT": SPECTRA, "S_GT": MAPS, "lines": ROWS, "cols": COLS},
    "palsson no maps": {"Y": columns_first(IMAGE), "GT": SPECTRA, "A": columns_first(MAPS), "lines": ROWS,
                        "cols": COLS},
    "palsson no size": {"Y": columns_first(IMAGE), "GT": SPECTRA, "S_GT": MAPS},
    "munet": {"Y": IMAGE, "label": MAPS, "M": SPECTRA.T, "M1": SPECTRA.T + 1, "DSM": IMAGE[:, :, 0]},
    "rasti in one": {"Y_clean": IMAGE, "A_true": MAPS, "E": SPECTRA.T},
    "hysupp": {"Y": rows_first(IMAGE), "E": SPECTRA.T, "A": rows_first(MAPS), "H": ROWS, "W": COLS, "p": K, "L": BANDS,
               "N": ROWS * COLS, "D": np.ones((BANDS, 20)), "M": 20},
    "thouvenin": {"Y": rows_first(IMAGE), "H": ROWS, "W": COLS, "M0": SPECTRA.T},
    "borsoi": {"r_cube": IMAGE, "M0": SPECTRA.T, "A_init": columns_first(MAPS)},
    "anomaly": {"data": IMAGE, "map": IMAGE[:, :, 0] > 0.5},
    "single": {"Rcuprite": IMAGE},
}
WITHOUT_REFERENCE = {"zhu", "zhu counts", "zhu all bands", "thouvenin", "borsoi", "anomaly", "single"}


@write
@pytest.mark.parametrize("family", SCENES)
def test_scene_layouts(tmp_path, family, write):
    scene = open_scene(write(tmp_path / "scene.mat", SCENES[family]))
    np.testing.assert_allclose(scene.reflectance, IMAGE, rtol=1e-6)
    assert (scene.reference is None) == (family in WITHOUT_REFERENCE)
    if scene.reference is not None:
        np.testing.assert_array_equal(scene.reference.abundances, MAPS)
        np.testing.assert_array_equal(scene.reference.endmembers, SPECTRA)


SPARSE = np.zeros((9, ROWS, COLS), np.float32)
SPARSE[[2, 5]] = MAPS.transpose(2, 0, 1)
LIBRARY = np.ones((BANDS, 9), np.float32)
LIBRARY[:, [2, 5]] = SPECTRA.T
REFERENCES = {
    "zhu": [{"A": columns_first(MAPS), "M": SPECTRA.T, "cood": CELL}],
    "zhu sized": [{"A": columns_first(MAPS), "M": SPECTRA.T, "cood": CELL, "nEnd": K, **SIZED}],
    "sunning": [{"XT": columns_first(MAPS), "M": SPECTRA.T}],
    "zhu all bands": [{"A": columns_first(MAPS), "M": np.insert(SPECTRA.T, 0, 9, axis=0),
                       "slctBnds": np.arange(2, BANDS + 2)}],
    "rasti": [{"A_true": MAPS}, {"E": SPECTRA.T}],
    "sunaa": [{"XT": SPARSE}, {"EE": LIBRARY}],
    "scene": [SCENES["palsson"]],
}


@write
@pytest.mark.parametrize("family", REFERENCES)
def test_reference_layouts(tmp_path, family, write):
    files = [write(tmp_path / f"{i}.mat", variables) for i, variables in enumerate(REFERENCES[family])]
    scene = open_scene(write(tmp_path / "scene.mat", SCENES["zhu"]), reference=files)
    np.testing.assert_array_equal(scene.reference.abundances, MAPS)
    np.testing.assert_array_equal(scene.reference.endmembers, SPECTRA)
    if "cood" in REFERENCES[family][0]:
        assert list(scene.reference.endmember.values) == ["Soil", "Dry grass"]
    assert open_reference(files, Scene(IMAGE).reflectance).identical(scene.reference)


def test_a_square_is_a_guess_that_is_told(tmp_path):
    square = IMAGE[:COLS]
    path = write_v5(tmp_path / "scene.mat", {"Y": columns_first(square), "A": columns_first(MAPS[:COLS]),
                                             "M": SPECTRA.T, "M1": SPECTRA.T + 1})
    with pytest.warns(UnmixWarning, match="9 pixels are taken as a square of 3 x 3"):
        scene = open_scene(path)
    np.testing.assert_array_equal(scene.reflectance, square)
    np.testing.assert_array_equal(scene.reference.endmembers, SPECTRA)
    # A summary says how large its image is: nothing to guess.
    assert open_reference(path, scene.reflectance).identical(scene.reference)


def test_no_size_and_no_square_is_an_error(tmp_path):
    with pytest.raises(InputError, match="15 pixels and no size; add nRow and nCol"):
        open_scene(write_v5(tmp_path / "scene.mat", {"Y": columns_first(IMAGE), "M": SPECTRA.T}))


def test_sizes_that_do_not_agree_are_told(tmp_path):
    path = write_v5(tmp_path / "scene.mat", {"Y": columns_first(IMAGE), "nRow": 4, "nCol": 4})
    with pytest.raises(InputError, match=r"4 x 4 = 16 pixels.*\(7, 15\)"):
        open_scene(path)
    truth = write_v5(tmp_path / "truth.mat", {"A": columns_first(MAPS[:4]), "M": SPECTRA.T})
    with pytest.raises(InputError, match=r"5 x 3 = 15 pixels.*\(2, 12\)"):
        open_scene(write_v5(tmp_path / "scene.mat", SCENES["zhu"]), reference=truth)
    bands = write_v5(tmp_path / "bands.mat", SCENES["zhu all bands"] | {"SlectBands": np.arange(7) + 5})
    with pytest.raises(InputError, match="selected bands from 1 to 9, got 5 to 11"):
        open_scene(bands)
    sparse = write_v5(tmp_path / "sparse.mat", {"XT": SPARSE, "EE": LIBRARY[:, 1:]})
    with pytest.raises(InputError, match="library EE of 9"):
        open_scene(tmp_path / "scene.mat", reference=sparse)


def test_wavelengths_are_taken_where_they_fit(tmp_path):
    grid = np.linspace(400, 2500, BANDS)
    path = write_v5(tmp_path / "scene.mat", SCENES["rasti in one"] | {"wavelengths": grid})
    np.testing.assert_array_equal(open_scene(path).wavelengths, grid)
    path = write_v5(tmp_path / "scene.mat", SCENES["rasti in one"] | {"wavelengths": grid[1:]})
    assert open_scene(path).wavelengths is None


def test_an_unknown_layout_lists_what_is_there_and_what_is_known(tmp_path):
    path = write_v5(tmp_path / "odd.mat", {"hsi": IMAGE, "other": MAPS, "who": "me", "cells": ["a", "b"]})
    with pytest.raises(InputError, match=r"odd\.mat.*hsi \(5, 3, 7\), other \(5, 3, 2\), who \(str\).*Palsson.*Zhu"):
        open_scene(path)
    with pytest.raises(InputError, match=r"hsi \(5, 3, 7\).*Rasti: A_true"):
        open_reference(path, Scene(IMAGE).reflectance)


@pytest.mark.parametrize("reference", [{"A_true": MAPS}, {"A": columns_first(MAPS), "M": SPECTRA.T}])
def test_a_reference_alone_is_no_scene(tmp_path, reference):
    with pytest.raises(InputError, match="reference alone goes to reference="):
        open_scene(write_v5(tmp_path / "truth.mat", reference))


def test_starting_points_are_no_reference(tmp_path):
    path = write_v5(tmp_path / "borsoi.mat", SCENES["borsoi"])
    with pytest.raises(InputError, match="a reference in borsoi.mat, got the variables r_cube"):
        open_reference(path, Scene(IMAGE).reflectance)


@pytest.mark.parametrize("library", [
    {"datalib": np.ones((BANDS, 5)), "names": np.full((5, 29), 32, np.uint8)},
    {"A": SPECTRA.T, "lib1": SPECTRA.T, "material_names": ["Tree"]},
])
def test_libraries_are_sent_to_their_own_door(tmp_path, library):
    path = write_v5(tmp_path / "library.mat", library)
    with pytest.raises(InputError, match="open_library"):
        open_scene(path)
    with pytest.raises(InputError, match="open_library"):
        open_reference(path, Scene(IMAGE).reflectance)


def test_a_variant_is_refused(tmp_path):
    with pytest.raises(InputError, match="variant 'alt'.*reference="):
        open_scene(write_v5(tmp_path / "scene.mat", SCENES["palsson"]), variant="alt")


def test_version_73_structs_and_empty_arrays(tmp_path):
    path = write_v73(tmp_path / "scene.mat", SCENES["single"] | {"Region": {"xStart": 269, "note": "text"}})
    with h5py.File(path, "a") as file:
        file["nothing"] = np.array([0, 0], np.uint64)
        file["nothing"].attrs["MATLAB_empty"] = 1
    with pytest.raises(InputError, match=r"Rcuprite \(5, 3, 7\), Region \(dict\), nothing \(0,\)"):
        open_scene(path)


@pytest.mark.parametrize("compressed", [False, True])
def test_a_type_that_does_not_exist_is_refused_before_scipy_follows_it(tmp_path, compressed):
    path = tmp_path / "a.mat"
    scipy.io.savemat(path, {"Y": np.ones((4, 3, 5))}, do_compression=compressed)
    content = path.read_bytes()
    data = zlib.decompress(content[136:]) if compressed else content[128:]
    place = data.index(np.array([9, 480], "<u4").tobytes())  # the tag of the numbers
    data = data[:place] + bytes([108]) + data[place + 1 :]
    if compressed:
        data = zlib.compress(data)
        data = np.array([15, len(data)], "<u4").tobytes() + data
    path.write_bytes(content[:128] + data)
    with pytest.raises(InputError, match="known type in 'a.mat', got type 108"):
        open_scene(path)


def linked(file, other):
    file["Y"] = h5py.ExternalLink(str(other), "Y")


def external(file, other):
    file.create_dataset("Y", shape=(4, 3, 5), dtype="u1", external=[(str(other), 0, h5py.h5f.UNLIMITED)])


def unwritten(file, other):
    file.create_dataset("Y", shape=(10**6, 10**6, 5), chunks=(1, 1, 5), dtype="f4")


@pytest.mark.parametrize("lead, message", [(linked, "all data of 'a.mat' in that file"), (external, "all data of 'a.mat'"),
                                           (unwritten, "as large as its header says")])
def test_data_that_are_not_in_the_file_are_refused(tmp_path, lead, message):
    with h5py.File(tmp_path / "other.mat", "w") as file:
        file["Y"] = np.ones((4, 3, 5))
    with h5py.File(tmp_path / "a.mat", "w") as file:
        lead(file, tmp_path / "other.mat")
    with pytest.raises(InputError, match=message):
        open_scene(tmp_path / "a.mat")


def test_damaged_files_give_one_line(tmp_path):
    v5 = write_v5(tmp_path / "v5.mat", SCENES["palsson"]).read_bytes()
    v73 = write_v73(tmp_path / "v73.mat", SCENES["palsson"]).read_bytes()
    rng = np.random.default_rng(0)
    contents = [b"", b"not a mat file", rng.bytes(3000), v5[:100]]
    contents += [content[:int(len(content) * part)] for content in (v5, v73) for part in (0.3, 0.6, 0.95)]
    for i, content in enumerate(contents):
        path = tmp_path / f"bad{i}.mat"
        path.write_bytes(content)
        with pytest.raises(InputError, match=rf"a MATLAB file, got 'bad{i}\.mat'") as error:
            open_scene(path)
        assert "\n" not in str(error.value)


# As published. The orientation is proved in two ways: the least-squares endmembers for the reference abundances leave
# the error they are known to leave (a wrong order leaves far more), or the image is that of another copy, bit by bit.

DATA = os.environ.get("PYRO_UNMIX_DATA")
real = pytest.mark.skipif(not (DATA and (Path(DATA) / "original").is_dir()), reason="PYRO_UNMIX_DATA has no original/")


def published(part):
    (path,) = (path for path in (Path(DATA) / "original").iterdir() if path.name.endswith(part))
    return path


def refit_rmse(scene):
    pixels, maps = scene.pixels(), scene.reference.abundances.values[scene.mask.values]
    endmembers = np.linalg.lstsq(maps, pixels, rcond=None)[0]
    return float(np.sqrt(np.mean((pixels - maps @ endmembers) ** 2)))


RASTI = ["MiSiCNet__{}-A_true.mat", "MiSiCNet__{}-E.mat"]
REFIT = {
    "palsson samson": ("hu_autoencoders__Samson.mat", [], 0.0753),
    "zhu samson": ("demo__samson_1.mat", ["Images-Unmixing__end3.mat"], 0.0753),
    "zhu samson, no size in the reference": ("demo__samson_1.mat", ["demo__Samson_GT.mat"], 0.0753),
    "rasti samson": ("MiSiCNet__Samson-Y_clean.mat", [name.format("Samson") for name in RASTI], 0.0192),
    "mixed samson": ("variability__real_data_samson.mat", ["Images-Unmixing__end3.mat"], 0.0753),
    "zhu jasper": ("PGMSU__JasperRidge2_R198.mat", ["PGMSU__JasperRidge2_end4.mat"], 0.0464),
    "zhu jasper, all bands": ("unmixing__JasperRidge2_F224_2.mat", ["PGMSU__JasperRidge2_end4.mat"], 0.0464),
    "palsson jasper": ("Unmixing-Models__Jasper.mat", [], 0.0464 * 5000),
    "rasti sim1": ("MiSiCNet__Sim1-Y_clean.mat", [name.format("Sim1") for name in RASTI], 0.0),
    "sunaa dc1": ("SUnAA__Y_clean.mat", ["SUnAA__XT.mat", "SUnAA__EE.mat"], 0.0),
}


@real
@pytest.mark.parametrize("case", REFIT)
def test_published_files_fit_their_reference(case):
    image, reference, rmse = REFIT[case]
    scene = open_scene(published(image), reference=[published(name) for name in reference])
    assert refit_rmse(scene) == pytest.approx(rmse, rel=5e-3, abs=1e-6)
    if "sunaa" in case:
        assert scene.reference.sizes["endmember"] == 5


@real
def test_published_square_scene():
    with pytest.warns(UnmixWarning, match="95 x 95"):
        scene = open_scene(published("CyCU-Net__samson_dataset.mat"))
    assert refit_rmse(scene) == pytest.approx(0.0753, rel=2e-3)
    assert float(scene.reference.endmembers.max()) == 1.0  # M, not M1
    # The control: pixels in the other order leave a far larger error.
    turned = Scene(scene.reflectance.values.transpose(1, 0, 2), abundances=scene.reference.abundances.values)
    assert refit_rmse(turned) > 0.12


@real
@pytest.mark.parametrize("image, twin, scale, turned", [
    ("hu_autoencoders__Samson.mat", "samson", 1, False),
    ("variability__real_data_samson.mat", "samson", 1, False),
    ("unmixing__JasperRidge2_F224_2.mat", "jasper_ridge", 1, False),
    ("demo__Rcuprite50x90x188.mat", "cuprite_crop", 10000, False),
    ("LREN__HYDICE_data.mat", "urban_crop", 1000, True),
])
def test_published_images_equal_other_copies(image, twin, scale, turned):
    values = open_scene(published(image)).reflectance.values / np.float32(scale)
    np.testing.assert_array_equal(values.transpose(1, 0, 2) if turned else values,
                                  open_scene(Path(DATA) / f"{twin}.npz").reflectance)


@real
def test_published_reference_without_abundances():
    scene = open_scene(published("demo__Rcuprite50x90x188.mat"), reference=published("__Cuprite12_groundTruth.mat"))
    twin = open_scene(Path(DATA) / "cuprite_crop.npz").reference
    np.testing.assert_array_equal(scene.reference.endmembers, twin.endmembers)
    assert list(scene.reference.endmember.values) == list(twin.endmember.values)


@real
def test_a_published_scene_in_the_munet_layout(tmp_path):
    twin = open_scene(Path(DATA) / "muufl_crop.npz")
    path = write_v5(tmp_path / "muufl.mat", {"Y": twin.reflectance.values, "label": twin.reference.abundances.values,
                                             "M": twin.reference.endmembers.values.T})
    assert refit_rmse(open_scene(path)) == pytest.approx(0.0390, rel=2e-3)
