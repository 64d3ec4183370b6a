"""A sample of a file that is larger than memory: what is in it, and a fit of it."""

from __future__ import annotations

import json
import re
import shutil
import sys

import numpy as np
import pytest
import xarray as xr
from sensor_files import MAP_INFO, braces, write_envi
from test_cli import FILES, assert_refused, drawn_elsewhere, run, works

import pyro_unmix as pu
from pyro_unmix import report
from pyro_unmix.denoise import FieldMeans
from pyro_unmix.errors import InputError, UnmixWarning
from pyro_unmix.guide import ENCODERS
from pyro_unmix.io import SceneFile
from pyro_unmix.io.mosaic import _APART, _TILE
from pyro_unmix.simulate import absorption_spectra

ROWS, COLS, L, PATCH = 300, 250, 20, (slice(171, 176), slice(88, 93))
HEADER = MAP_INFO | {"wavelength units": "Nanometers", "wavelength": braces(np.linspace(450.0, 1300.0, L))}
# 12 tiles of 56, of 37 or 38 rows and 35 or 36 columns.
PIXELS = 12 * 37 * 35


@pytest.fixture(scope="module")
def abundances():
    """Two materials everywhere, and a third one that is pure in a patch and nowhere else."""
    random = np.random.default_rng(0)
    z = np.concatenate([random.dirichlet([2.0, 2.0], (ROWS, COLS)), np.zeros((ROWS, COLS, 1))], axis=2)
    z[PATCH] = 0.0, 0.0, 1.0
    return z


@pytest.fixture(scope="module")
def values(abundances):
    noise = 0.005 * np.random.default_rng(1).standard_normal((ROWS, COLS, L))
    values = (abundances @ absorption_spectra(3, np.linspace(450.0, 1300.0, L), 3) + noise).astype(np.float32)
    values[:40, :60] = 0.0  # no data
    values[200, 100, 3] = np.nan
    return values


@pytest.fixture(scope="module")
def file(tmp_path_factory, values):
    return write_envi(tmp_path_factory.mktemp("large"), values, interleave="bil", header=HEADER)


@pytest.fixture(scope="module")
def sample(file):
    return pu.open_scene_file(file).sample(PIXELS)


def spectra(pixels):
    return {pixel.tobytes() for pixel in pixels}


def test_pixels_of_a_sample_are_those_of_the_file(sample, values):
    """Each of them once: nothing is made up, and of what cannot be used there is nothing."""
    found = sample.pixels()
    assert 0.8 * PIXELS < len(found) <= 1.1 * PIXELS and len(spectra(found)) == len(found)
    assert spectra(found) <= spectra(values[np.isfinite(values).all(axis=2) & (values != 0).any(axis=2)])
    np.testing.assert_allclose(sample.wavelengths, np.linspace(450.0, 1300.0, L), rtol=1e-4)


def test_a_material_of_one_small_patch_is_in_the_sample(file, sample, values, monkeypatch):
    patch = spectra(values[PATCH].reshape(-1, L))
    assert patch <= spectra(sample.pixels())
    # Negative control: by chance one of five samples has it.
    monkeypatch.setattr("pyro_unmix.io.mosaic._along", lambda image, use, axes: np.full((*use.shape, 2), -np.inf))
    seen = [patch <= spectra(pu.open_scene_file(file).sample(PIXELS, seed=seed).pixels()) for seed in range(8)]
    assert sum(seen) <= 5


def test_tiles_of_a_sample_do_not_see_each_other(sample):
    """Lines without data between them are as wide as a guide looks."""
    pitch = _TILE + _APART
    use = sample.mask.values
    assert not use[_TILE::pitch].any() and not use[:, _TILE::pitch].any()
    assert not any(use[_TILE + k :: pitch].any() or use[:, _TILE + k :: pitch].any() for k in range(_APART))
    assert max(FieldMeans.halo, *(make().receptive_field // 2 for make in ENCODERS.values())) <= _APART


def test_same_seed_same_sample(file, sample):
    opened = pu.open_scene_file(file)
    assert opened.sample(PIXELS).digest() == sample.digest() != opened.sample(PIXELS, seed=1).digest()


def test_a_file_that_is_small_enough_is_whole(file, values):
    with pytest.warns(UnmixWarning, match="not finite"):
        whole = pu.open_scene_file(file).sample(ROWS * COLS)
    assert whole.shape == (ROWS, COLS, L) and whole.n_pixels == ROWS * COLS - 40 * 60 - 1


def test_few_rows_are_held_at_a_time(file, monkeypatch):
    rows, read = [], SceneFile.read
    monkeypatch.setattr(SceneFile, "read", lambda file, parts: rows.append(sum(part.stop - part.start for part in parts))
                        or read(file, parts))
    pu.open_scene_file(file).sample(PIXELS)
    assert max(rows) <= _TILE and sum(rows) <= 2 * ROWS


@pytest.mark.parametrize("shape", [(500, 3), (2, 900), (41, 61)])
def test_a_narrow_file(tmp_path, shape):
    values = np.random.default_rng(0).uniform(0.1, 0.9, (*shape, L)).astype(np.float32)
    found = pu.open_scene_file(write_envi(tmp_path, values, header=HEADER)).sample(1000)
    assert 500 <= found.n_pixels <= 1000


def test_fewer_pixels_than_a_tile_has_and_none_with_data(tmp_path, file):
    with pytest.raises(InputError, match="at least 1295 pixels"):
        pu.open_scene_file(file).sample(1000)


SMALL = 150, 60


@pytest.fixture
def fit_command(tmp_path, tmp_path_factory, values, monkeypatch):
    """A smaller file, taken for one that is larger than memory, and what a fit of it is called with."""
    monkeypatch.setattr("pyro_unmix.cli._MOST_HELD", 1000)
    monkeypatch.setattr(SceneFile.sample, "__defaults__", (3200,))
    folder = tmp_path_factory.mktemp("small")
    small = write_envi(folder, values[100 : 100 + SMALL[0], 60 : 60 + SMALL[1]], interleave="bil", header=HEADER)
    (folder / "few.toml").write_text("svi_steps = 4\ncalibration_steps = 4\nsampling_steps = 40\nwindow = 50\n")
    return ("fit", small, "-k", 3, "--guide", "mlp", "--config", folder / "few.toml", "--brightness", "none", "--out")


def test_the_command_fits_a_part_and_unmixes_all(fit_command, tmp_path, values):
    """The summary has all pixels, where they are on the ground, and is that of `predict`; the report is there."""
    file, folder = fit_command[1], tmp_path / "run"
    done = works(*fit_command, folder)
    assert "150 x 60 pixels, of which 2250 are learned from" in done.out
    assert {path.name for path in folder.iterdir()} == FILES
    works("predict", folder, file, "--out", tmp_path / "again.nc")
    with xr.open_dataset(folder / "summary.nc", engine="h5netcdf") as one, \
            xr.open_dataset(tmp_path / "again.nc", engine="h5netcdf") as other:
        xr.testing.assert_allclose(one, other, atol=1e-6, rtol=0)
        assert one.sizes["y"] == SMALL[0] and "spatial_ref" in one.coords
        assert int(one.abundance_mean.notnull().all("endmember").sum()) == SMALL[0] * SMALL[1] - 1
    with xr.open_dataset(folder / "pixels.nc", engine="h5netcdf") as pixels:
        shown = values[100:, 60:][np.ix_(pixels.row.values, pixels.column.values)]
        np.testing.assert_array_equal(pixels.reflectance.values, shown)
    assert json.loads((folder / "config.json").read_text())["scene"] == "scene"
    assert works(*fit_command, folder, "--resume").out.strip().endswith("nothing to resume")


def test_the_command_says_what_is_in_it_from_some_of_its_rows(fit_command, values):
    said = " ".join(works("info", fit_command[1]).out.split())
    assert f"150 rows x 60 columns x {L} bands" in said and "georeference" in said and "endmembers about 3" in said
    looked_at = re.search(r"pixels looked at (\d+) of 9000", said)
    assert looked_at and int(looked_at[1]) == 150 * 60 - 1  # one has no data


@pytest.mark.parametrize("command", ["info", "fit"])
def test_a_file_that_has_a_gap_in_every_pixel(fit_command, tmp_path, values, command):
    broken = values[100:200, 60:120].copy()
    broken[:, ::2, 3] = broken[:, 1::2, 5] = np.nan
    file = write_envi(tmp_path, broken, interleave="bil", header=HEADER)
    arguments = ("info", file) if command == "info" else ("fit", file, *fit_command[2:], tmp_path / "run")
    assert_refused(run(*arguments), "a pixel that has a value in every band, got none of 6000 looked at")


def test_a_run_that_was_killed_while_it_unmixed_goes_on(fit_command, tmp_path, monkeypatch):
    monkeypatch.setattr(report, "write_report", drawn_elsewhere)
    works(*fit_command, tmp_path / "straight")
    prediction = sys.modules["pyro_unmix.predict"]
    with monkeypatch.context() as killed:
        killed.setattr(prediction, "write_strips", _dies)
        assert run(*fit_command, tmp_path / "cut").code != 0
    assert (tmp_path / "cut" / ".summary.nc.strips" / "000002.npz").exists()
    strips_of_another = tmp_path / "other" / ".summary.nc.strips"
    shutil.copytree(tmp_path / "cut" / ".summary.nc.strips", strips_of_another)
    (strips_of_another / "work.json").write_text('"another"')
    with monkeypatch.context() as counted:
        counted.setattr(prediction, "_work", _dies)  # nothing is left to be worked on
        works(*fit_command, tmp_path / "cut", "--resume")
    one, other = (xr.load_dataset(tmp_path / name / "summary.nc", engine="h5netcdf") for name in ("straight", "cut"))
    xr.testing.assert_equal(one, other)
    assert {path.name for path in (tmp_path / "cut").iterdir()} == FILES
    works(*fit_command, tmp_path / "other")  # begins anew, whatever lies there


def _dies(*_):
    raise KeyboardInterrupt


def test_draws_of_a_file_are_refused_before_anything_is_done(fit_command, tmp_path):
    assert_refused(run(*fit_command, tmp_path / "run", "--draws", 10), "67 million values or fewer with --draws")
    assert not (tmp_path / "run").exists()
