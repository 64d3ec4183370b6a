"""What the page embeds is what the summary and the scene say; large scenes are thinned, and names stay names."""

from __future__ import annotations

import base64
import json
import re
from html.parser import HTMLParser

import matplotlib.pyplot as plt
import numpy as np
import pytest
from runs import CONFIG, good_summary, run_folder, scene_of_runs

import pyro_unmix as pu
from pyro_unmix.errors import InputError
from pyro_unmix.report import pixels, run, save_pixels, sections, write_report
from pyro_unmix.report.explorer import packed

HOSTILE = "</script><script>alert(1)</script><img src=x onerror=alert(2)> '\"&<!--"


@pytest.fixture(scope="module")
def scene():
    return scene_of_runs()


@pytest.fixture
def no_pictures(monkeypatch):
    monkeypatch.setattr(sections, "_picture", lambda figure, *words: "")


@pytest.fixture
def folder(scene, tmp_path, no_pictures):
    folder = run_folder(scene, tmp_path)
    save_pixels(folder, scene, pu.UnmixingModel(3))
    return folder


def data_of(folder) -> dict:
    html = write_report(folder).read_text("utf-8")
    return json.loads(re.search(r"<script type='application/json' id='data'>(.*?)</script>", html).group(1))


def unpacked(about: dict, *shape: int) -> np.ndarray:
    steps = np.frombuffer(base64.b64decode(about["data"]), "<u2").astype(float)
    steps[steps > 65534] = np.nan
    return (about["low"] + (about["high"] - about["low"]) * steps / 65534).reshape(shape)


def test_packing_keeps_five_digits_and_gaps():
    values = np.array([[0.1, 0.7], [np.nan, np.inf], [-3.0, 2.0]])
    found = unpacked(packed(values), 3, 2)
    np.testing.assert_allclose(found, np.where(np.isfinite(values), values, np.nan), atol=5 / 131068 * 1.001, rtol=0)
    assert unpacked(packed(np.full(3, 0.25)), 3).tolist() == [0.25] * 3
    assert np.isnan(unpacked(packed(np.full(2, np.nan)), 2)).all()
    assert unpacked(packed(np.array([-1e-9, 1 + 1e-9]), 0.0, 1.0), 2).tolist() == [0.0, 1.0]


def test_the_page_embeds_the_summary_and_the_spectra(folder, scene):
    summary, data = good_summary(scene), data_of(folder)
    for name, values in (("mean", summary.abundance_mean), ("sd", summary.abundance_sd)):
        np.testing.assert_allclose(unpacked(data[name], 3, 14, 20), values.transpose("endmember", "y", "x"), atol=1e-5)
    quantiles = summary.abundance_quantile.transpose("quantile", "endmember", "y", "x")
    np.testing.assert_allclose(unpacked(data["quantiles"], 5, 3, 14, 20), quantiles.clip(0, 1), atol=1e-5)
    np.testing.assert_allclose(unpacked(data["endmembers"], 3, 40), summary.endmember_mean, atol=1e-5)
    np.testing.assert_allclose(unpacked(data["spectra"]["reflectance"], 14, 20, 40), scene.reflectance, atol=2e-5)
    assert data["rows"] == data["spectra"]["rows"] == list(range(14)) and data["columns"] == list(range(20))
    assert data["linear"] and data["brightness"] is None and data["coordinates"] == [] and data["unit"] == "nm"
    np.testing.assert_allclose(data["wavelengths"], scene.wavelengths)


def test_masked_pixels_brightness_coordinates_and_unsorted_bands(folder, scene):
    summary = good_summary(scene).isel(wavelength=slice(None, None, -1)).drop_sel(wavelength=scene.wavelengths[10:20])
    summary = summary.where(summary.y != 3).assign(endmember_mean=summary.endmember_mean, endmember_sd=summary.endmember_sd,
                                                   brightness_mean=0.5 + 0.1 * summary.x + 0 * summary.y)
    summary = summary.assign_coords(y=("y", 4e6 - 30.0 * np.arange(14), {"units": "m"}),
                                    lat=(("y", "x"), np.linspace(40, 41, 280).reshape(14, 20)))
    run_folder(scene, folder, summary)
    (folder / "pixels.nc").unlink()
    data = data_of(folder)
    mean = unpacked(data["mean"], 3, 14, 20)
    assert np.isnan(mean[:, 3]).all() and np.isfinite(np.delete(mean, 3, axis=1)).all()
    np.testing.assert_allclose(unpacked(data["brightness"], 14, 20)[0], 0.5 + 0.1 * np.arange(20), atol=1e-4)
    assert data["wavelengths"] == sorted(data["wavelengths"]) and data["gaps"] == [10] and data["spectra"] is None
    first = summary.endmember_mean.sel(wavelength=data["wavelengths"][0])
    np.testing.assert_allclose(unpacked(data["endmembers"], 3, 30)[:, 0], first, atol=1e-5)
    (along, lat) = sorted(data["coordinates"], key=lambda about: about["name"], reverse=True)
    assert along == {"name": "y", "unit": "m", "along": "y", "values": summary.y.values.tolist()}
    np.testing.assert_allclose(unpacked(lat["maps"], 14, 20), summary.lat, atol=1e-5)


@pytest.mark.parametrize("rows, cols", [(1280, 1242), (5, 100_000), (200, 200), (1, 1)])
@pytest.mark.parametrize("k", [2, 10, 40])
def test_maps_are_bounded_and_regular(rows, cols, k):
    shown = pixels.shown_pixels(rows, cols, k)
    size = len(shown[0]) * len(shown[1])
    assert 0 < size <= 40_000 and size * k * 14 <= 3_000_000
    for at, length in zip(shown, (rows, cols), strict=True):
        assert 0 <= at[0] and at[-1] < length and len(np.unique(np.diff(at))) <= 1
        step = at[1] - at[0] if len(at) > 1 else length
        assert abs(at[0] - (step - 1) / 2) <= 0.5  # in the middle of its block
    if (rows, cols) == (1280, 1242):
        assert size > 0.8 * min(40_000, 3_000_000 / 14 / k)  # and not fewer than need be


@pytest.fixture
def small_bounds(monkeypatch):
    """Maps of 70 pixels and spectra of 20 of 40 bands, read three rows at a time."""
    monkeypatch.setattr(pixels, "_MOST_PIXELS", 70)
    monkeypatch.setattr(pixels, "_SPECTRA_BYTES", 20 * 2 * 40)
    monkeypatch.setattr(run, "_BLOCK", 60)


def test_a_large_scene_is_thinned_and_its_numbers_are_not(folder, scene, small_bounds):
    summary = good_summary(scene)
    summary.abundance_mean[13, 19] = [0.0, 1.0, 0.0]  # not on the maps
    run_folder(scene, folder, summary)
    save_pixels(folder, scene, pu.UnmixingModel(3))
    data = data_of(folder)
    assert data["rows"] == list(range(0, 14, 2)) and data["columns"] == list(range(0, 20, 2)) and data["shape"] == [14, 20]
    thin = summary.isel(y=data["rows"], x=data["columns"])
    np.testing.assert_allclose(unpacked(data["mean"], 3, 7, 10), thin.abundance_mean.transpose("endmember", "y", "x"), atol=1e-5)
    np.testing.assert_allclose(unpacked(data["quantiles"], 5, 3, 7, 10)[2], thin.abundance_mean.transpose("endmember", "y", "x"),
                               atol=1e-5)
    spectra = data["spectra"]
    assert spectra["rows"] == [0, 4, 8, 12] and spectra["columns"] == [0, 4, 8, 12, 16]
    np.testing.assert_allclose(unpacked(spectra["reflectance"], 4, 5, 40),
                               scene.reflectance.isel(y=spectra["rows"], x=spectra["columns"]), atol=2e-5)
    html = (folder / "report.html").read_text()
    assert "one pixel, the middle one, of each block of 2 × 2: 7 × 10 of 14 × 20 pixels" in html
    assert "Observed spectra are in the page for 4 × 5 of these pixels." in html and "(280 in use)" in html
    largest = float(summary.abundance_mean[..., 1].max())
    assert largest == 1.0 and re.search(r"endmember 2</th><td>[\d.]+</td><td>1.000</td>", html)


def test_maps_of_a_thinned_scene_count_all_pixels(folder, scene, small_bounds):
    thinned = run.Run.read(folder)
    figure = sections._in_pixels(sections.plot.uncertainty(thinned.summary), thinned)
    left, right, bottom, top = figure.axes[0].axis()
    assert (left, right, bottom, top) == (-0.5, 19.5, 13.5, -0.5)


def test_mixtures_that_are_not_linear_are_kept_beside_the_spectra(folder, scene):
    model = pu.UnmixingModel(3, mixing=pu.mixing.Fan())
    summary = good_summary(scene).assign_attrs(configuration='{"mixing": "Fan"}')
    summary["brightness_mean"] = 0 * summary.reconstruction_rmse + 1.5
    run_folder(scene, folder, summary)
    save_pixels(folder, scene, model)
    data = data_of(folder)
    mixed = 1.5 * model.mixing.spectra(summary.abundance_mean.values, summary.endmember_mean.values)
    assert not data["linear"]
    np.testing.assert_allclose(unpacked(data["spectra"]["reconstruction"], 14, 20, 40), mixed, atol=3e-5)


def test_damaged_spectra_are_refused(folder):
    (folder / "pixels.nc").write_bytes(b"")
    with pytest.raises(InputError, match="can be read"):
        write_report(folder)


class Tags(HTMLParser):
    """Tags with their attributes, and the words between them."""

    def __init__(self, html: str):
        super().__init__()
        self.tags, self.words = [], ""
        self.feed(html)

    def handle_starttag(self, tag, attrs):
        self.tags.append((tag, dict(attrs)))

    def handle_data(self, data):
        self.words += data


def test_names_cannot_leave_their_place(scene, tmp_path, monkeypatch):
    """Pictures are blank, but names are in the words that stand for them too."""
    for name in ("abundance_maps", "endmembers", "uncertainty", "loss"):
        monkeypatch.setattr(sections.plot, name, lambda *_: plt.figure(figsize=(1, 1)))
    plain = Tags(write_report(run_folder(scene, tmp_path)).read_text())
    summary = good_summary(scene).assign_coords(endmember=["a", HOSTILE, "b"])
    summary.coords["y"] = ("y", np.arange(14.0) + 7, {"units": HOSTILE})
    summary.wavelength.attrs["units"] = HOSTILE
    run_folder(scene, tmp_path, summary.assign_attrs(findings=f"{HOSTILE}\n{HOSTILE}", intervals="best effort"))
    (tmp_path / "config.json").write_text(json.dumps(CONFIG | {"scene": HOSTILE, "guide": {"class": HOSTILE}, HOSTILE: HOSTILE}))
    html = write_report(tmp_path).read_text()
    hostile = Tags(html)
    scripts, images = ([attrs for tag, attrs in hostile.tags if tag == kind] for kind in ("script", "img"))
    assert len(scripts) == 2 and len(images) == 4 and all("onerror" not in attrs for _, attrs in hostile.tags)
    assert {tag for tag, _ in hostile.tags} == {tag for tag, _ in plain.tags}
    assert hostile.words.count(HOSTILE) >= 5 and data_of(tmp_path)["names"][1] == HOSTILE


def test_no_script_runs_but_that_of_the_page(folder):
    html = write_report(folder).read_text()
    policy = re.search(r"Content-Security-Policy' content=\"([^\"]*)\"", html).group(1)
    assert policy.startswith("default-src 'none'; img-src data:;") and "unsafe" not in policy
    assert not re.search(r"\son\w+=|\sstyle=", html)  # which the policy would not let pass
