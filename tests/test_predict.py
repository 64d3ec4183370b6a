"""A scene in strips gives what it gives whole, whatever happens on the way."""

from __future__ import annotations

import sys
import warnings

import numpy as np
import pytest
import rasterio
import xarray as xr
from sensor_files import GRID, MAP_INFO, UTM, braces, write_envi
from short_fits import quiet_fit

import pyro_unmix as pu
from pyro_unmix.errors import InputError
from pyro_unmix.pieces import GuidePiece

K, L, ROWS, COLS = 3, 30, 214, 12


@pytest.fixture(scope="module")
def file(tmp_path_factory):
    """A file of four strips, of which the second has no data."""
    made = pu.simulate_scene(K, (ROWS, COLS), n_bands=L, seed=3)
    values = made.reflectance.values.astype(np.float32)
    values[64:128] = 0.0
    values[5, 7] = 0.0
    header = MAP_INFO | {"wavelength units": "Nanometers", "wavelength": braces(np.linspace(450.0, 1300.0, L))}
    return write_envi(tmp_path_factory.mktemp("scene"), values, interleave="bil", header=header)


@pytest.fixture(scope="module")
def whole(file):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", pu.UnmixWarning)
        return pu.open_scene(file)


@pytest.fixture(scope="module", params=["spacnn", "mlp"])
def fitted(request, whole):
    return quiet_fit(pu.UnmixingModel(K, brightness="pixel"), whole.crop(y=slice(0, 30)), guide=request.param)


def written(path):
    return xr.load_dataset(path, engine="h5netcdf")


@pytest.mark.parametrize("held", [True, False])
def test_strips_are_the_whole(file, whole, fitted, held, tmp_path):
    fitted.posterior(whole).save(tmp_path / "whole.nc")
    pu.predict(fitted, whole if held else pu.open_scene_file(file), tmp_path / "strips.nc", progress=False)
    one, other = written(tmp_path / "whole.nc"), written(tmp_path / "strips.nc")
    xr.testing.assert_allclose(one, other, atol=1e-6, rtol=0)
    assert one.abundance_mean.notnull().all("endmember").sum() == whole.n_pixels < ROWS * COLS - 60 * COLS
    assert one.attrs == other.attrs
    assert sorted(path.name for path in tmp_path.iterdir()) == ["strips.nc", "whole.nc"]


def test_without_its_context_a_strip_would_differ(whole, fitted):
    """Negative control of the above."""
    if fitted.guide.encoder.receptive_field == 1 and fitted.guide.denoise is None:
        pytest.skip("a guide that looks at single pixels")
    alone = fitted.posterior(whole.crop(y=slice(192, ROWS))).summary().abundance_mean.values
    assert np.nanmax(np.abs(alone - fitted.posterior(whole).summary().abundance_mean.values[192:])) > 1e-6


def test_maps_lie_where_the_scene_lies(file, fitted, tmp_path):
    pu.predict(fitted, pu.open_scene_file(file), tmp_path / "maps.tif", progress=False)
    with rasterio.open(tmp_path / "maps.tif") as maps:
        assert maps.crs == UTM and maps.transform == GRID and maps.shape == (ROWS, COLS)
        assert maps.descriptions[:2] == ("endmember 1 mean", "endmember 1 sd")
        total = sum(maps.read(1 + maps.descriptions.index(f"endmember {k + 1} mean")) for k in range(K))
    np.testing.assert_allclose(total[np.isfinite(total)], 1.0, atol=1e-6)
    assert np.isnan(total[64:128]).all() and np.isfinite(total[128:]).all()


def test_what_was_killed_goes_on(file, fitted, tmp_path, monkeypatch):
    pu.predict(fitted, pu.open_scene_file(file), tmp_path / "straight.nc", progress=False)
    marginals, done = GuidePiece.marginals, []

    def fails_but_once(piece, levels):
        if done:
            raise KeyboardInterrupt
        done.append(piece)
        return marginals(piece, levels)

    monkeypatch.setattr(sys.modules["pyro_unmix.predict"], "_MOST_THREADS", 1)
    monkeypatch.setattr(GuidePiece, "marginals", fails_but_once)
    with pytest.raises(KeyboardInterrupt):
        pu.predict(fitted, pu.open_scene_file(file), tmp_path / "cut.nc", progress=False)
    assert not (tmp_path / "cut.nc").exists()
    left = {path.name for path in (tmp_path / ".cut.nc.strips").glob("*.npz")}
    assert "000000.npz" in left and "000002.npz" not in left

    monkeypatch.setattr(GuidePiece, "marginals", lambda piece, levels: done.append(piece) or marginals(piece, levels))
    pu.predict(fitted, pu.open_scene_file(file), tmp_path / "cut.nc", resume=True, progress=False)
    assert len(done) == 3, "one strip before, two after, and none without data"
    assert written(tmp_path / "cut.nc").identical(written(tmp_path / "straight.nc"))
    assert not (tmp_path / ".cut.nc.strips").exists()


def test_strips_of_another_scene_are_refused(file, whole, fitted, tmp_path):
    (tmp_path / ".out.nc.strips").mkdir()
    (tmp_path / ".out.nc.strips" / "work.json").write_text('"another"')
    with pytest.raises(InputError, match="strips of this very fit and scene"):
        pu.predict(fitted, whole, tmp_path / "out.nc", resume=True, progress=False)
    pu.predict(fitted, whole, tmp_path / "out.nc", progress=False)


def test_prepared_scenes_are_no_files_to_read_in_parts(tmp_path):
    (tmp_path / "scene.npz").write_bytes(b"")
    with pytest.raises(InputError, match="open it whole"):
        pu.open_scene_file(tmp_path / "scene.npz")
