"""Scenes as `.npz`, and what is common to all formats: the door, the reference, the errors."""

from __future__ import annotations

import zipfile

import numpy as np
import pytest
import xarray as xr

from pyro_unmix.errors import InputError
from pyro_unmix.io import open_reference, open_scene, save_scene
from pyro_unmix.scene import Scene

ROWS, COLS, BANDS, K = 4, 3, 6, 2


@pytest.fixture
def arrays():
    rng = np.random.default_rng(0)
    abundances = rng.dirichlet(np.ones(K), (ROWS, COLS)).astype(np.float32)
    endmembers = rng.uniform(0.1, 1, (K, BANDS)).astype(np.float32)
    return {"image": abundances @ endmembers, "abundances": abundances, "endmembers": endmembers,
            "names": np.array(["Soil", "Tree"]), "wavelengths": np.linspace(400, 900, BANDS)}


def write(path, **arrays):
    np.savez(path, **arrays)
    return path


def test_a_saved_scene_comes_back_whole(tmp_path, arrays):
    mask = np.ones((ROWS, COLS), bool)
    mask[0, 0] = False
    arrays["image"][0, 0] = np.nan
    scene = Scene(**arrays, mask=mask)
    save_scene(scene, tmp_path / "sub" / "field.npz")
    again = open_scene(tmp_path / "sub" / "field.npz")
    assert again.name == "field"
    xr.testing.assert_identical(again.reflectance, scene.reflectance)
    xr.testing.assert_identical(again.mask, scene.mask)
    xr.testing.assert_identical(again.reference, scene.reference)


def test_a_scene_without_extras_comes_back_without(tmp_path, arrays):
    save_scene(Scene(arrays["image"]), tmp_path / "bare.npz")
    again = open_scene(tmp_path / "bare.npz")
    assert again.wavelengths is None and again.reference is None
    assert set(np.load(tmp_path / "bare.npz").files) == {"image", "mask"}


def test_a_failed_save_keeps_the_old_file(tmp_path, arrays, monkeypatch):
    path = tmp_path / "scene.npz"
    save_scene(Scene(**arrays), path)
    before = path.read_bytes()

    def fail(file, **_):
        file.write_bytes(b"half")
        raise RuntimeError("disk full")

    monkeypatch.setattr(np, "savez_compressed", fail)
    with pytest.raises(RuntimeError):
        save_scene(Scene(arrays["image"]), path)
    assert path.read_bytes() == before and len(list(tmp_path.iterdir())) == 1


def test_saving_under_another_extension_is_refused(tmp_path, arrays):
    with pytest.raises(InputError, match=r"\.npz"):
        save_scene(Scene(**arrays), tmp_path / "scene.mat")


def test_variants_are_chosen_by_suffix(tmp_path, arrays):
    three = np.full((ROWS, COLS, 3), 1 / 3, np.float32)
    path = write(tmp_path / "scene.npz", **arrays, abundances_alt=arrays["abundances"][:, :, ::-1],
                 abundances3=three, endmembers3=np.ones((3, BANDS)), names3=np.array(["a", "b", "c"]),
                 abundances_bare=three)
    alt = open_scene(path, variant="alt").reference
    np.testing.assert_array_equal(alt.abundances, arrays["abundances"][:, :, ::-1])
    assert list(alt.endmember.values) == ["Soil", "Tree"] and "endmembers" not in alt
    assert list(open_scene(path, variant="3").reference.endmember.values) == ["a", "b", "c"]
    assert list(open_scene(path, variant="bare").reference.endmember.values) == [f"endmember {i}" for i in (1, 2, 3)]
    with pytest.raises(InputError, match=r"3, alt, bare.*variant 'nope'"):
        open_scene(path, variant="nope")


def test_a_separate_reference_replaces_the_one_inside(tmp_path, arrays):
    scene = write(tmp_path / "scene.npz", **arrays)
    maps = write(tmp_path / "maps.npz", abundances=arrays["abundances"][:, :, ::-1], wavelengths=np.arange(1, 7))
    spectra = write(tmp_path / "spectra.npz", endmembers=arrays["endmembers"][::-1])
    reference = open_scene(scene, reference=[maps, spectra]).reference
    np.testing.assert_array_equal(reference.endmembers, arrays["endmembers"][::-1])
    np.testing.assert_array_equal(reference.wavelength, arrays["wavelengths"])
    assert "endmembers" not in open_scene(scene, reference=str(maps)).reference


def test_a_mask_takes_the_place_of_the_files_own(tmp_path, arrays):
    path = write(tmp_path / "scene.npz", **arrays, mask=np.eye(ROWS, COLS, dtype=bool))
    assert open_scene(path).n_pixels == 3
    assert open_scene(path, mask=np.ones((ROWS, COLS), bool)).n_pixels == ROWS * COLS


def test_a_reference_takes_the_coordinates_of_what_it_is_for(tmp_path, arrays):
    scene = Scene(**arrays)
    like = scene.reflectance.assign_coords(y=np.arange(ROWS) * 30.0 + 5e6).to_dataset(name="anything")
    reference = open_reference(write(tmp_path / "scene.npz", **arrays), like)
    xr.testing.assert_identical(reference, scene.reference.assign_coords(y=like.y))
    with pytest.raises(InputError, match=r"shape \(2, 3, k\)"):
        open_reference(tmp_path / "scene.npz", like.isel(y=slice(2)))


def test_a_reference_needs_no_image(tmp_path, arrays):
    scene = Scene(**arrays)
    path = write(tmp_path / "truth.npz", abundances=arrays["abundances"])
    assert set(open_reference(path, scene.reflectance).data_vars) == {"abundances"}
    with pytest.raises(InputError, match="'image'.*abundances"):
        open_scene(path)
    with pytest.raises(InputError, match="'abundances'.*image"):
        open_reference(write(tmp_path / "image.npz", image=arrays["image"]), scene.reflectance)


def test_members_that_are_not_asked_for_are_not_read(tmp_path, arrays):
    path = tmp_path / "scene.npz"
    np.savez(path, **arrays, notes=np.array([{"a": 1}], dtype=object))
    assert open_scene(path).shape == (ROWS, COLS, BANDS)


def test_a_spectral_library_is_sent_to_its_own_door(tmp_path):
    path = write(tmp_path / "library.npz", spectra=np.ones((2, 5)), names=np.array(["a", "b"]))
    with pytest.raises(InputError, match="spectra, names.*open_library"):
        open_scene(path)


def test_damaged_files_give_one_line(tmp_path, arrays):
    whole = write(tmp_path / "whole.npz", **arrays).read_bytes()
    pickled = tmp_path / "pickled.npz"
    np.savez(pickled, image=np.array([[1, None]], dtype=object))
    bad = {"cut.npz": whole[:-40], "noise.npz": b"\x93NUMPY" + bytes(200), "empty.npz": b"",
           "flipped.npz": whole[:200] + bytes(100) + whole[300:], "pickled.npz": pickled.read_bytes()}
    np.save(tmp_path / "bare.npy", arrays["image"])
    bad["bare.npz"] = (tmp_path / "bare.npy").read_bytes()
    for name, content in bad.items():
        (tmp_path / name).write_bytes(content)
        with pytest.raises(InputError, match=name) as error:
            open_scene(tmp_path / name)
        assert "\n" not in str(error.value)


@pytest.mark.parametrize("old, new", [(b"NUMPY", b"NUMPI"), (b"(", b"["), (b"False", b"F(lse"), (b"<f", b"<z")])
def test_members_that_are_no_arrays_give_one_line(tmp_path, arrays, old, new):
    whole = write(tmp_path / "whole.npz", **arrays)
    with zipfile.ZipFile(whole) as archive, zipfile.ZipFile(tmp_path / "a.npz", "w") as made:
        for name in archive.namelist():
            made.writestr(name, archive.read(name).replace(old, new, 1) if name == "image.npy" else archive.read(name))
    with pytest.raises(InputError) as error:
        open_scene(tmp_path / "a.npz")
    assert "\n" not in str(error.value)


def test_what_cannot_be_opened_is_refused_at_the_door(tmp_path, arrays):
    (tmp_path / "scene.xyz").write_text("?")
    (tmp_path / "folder.npz").mkdir()
    for name, message in (("scene.xyz", r"\.npz, \.mat.*scene\.xyz"), ("missing.npz", "does not exist"),
                          ("folder.npz", "a folder")):
        with pytest.raises(InputError, match=message):
            open_scene(tmp_path / name)
    scene = write(tmp_path / "scene.npz", **arrays)
    with pytest.raises(InputError, match="does not exist"):
        open_scene(scene, reference=["missing.npz"])
    (tmp_path / "truth.mat").write_bytes(b"")
    with pytest.raises(InputError, match="one format.*scene.npz, truth.mat"):
        open_scene(scene, reference=[scene, tmp_path / "truth.mat"])
