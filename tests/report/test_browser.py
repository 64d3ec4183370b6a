"""The page in a browser: what a click, a key and the slider do, on a desk and on a phone."""

from __future__ import annotations

import json

import chromium
import numpy as np
import pytest
from runs import CONFIG, good_summary, run_folder, scene_of_runs

import pyro_unmix as pu
from benchmarks.exceedance import by_angle
from pyro_unmix.report import pixels, save_pixels, write_report

pytestmark = pytest.mark.skipif(chromium.program() is None, reason=f"needs one of the browsers {', '.join(chromium.NAMES)}")

HOSTILE = "</script><img src=x onerror=document.title='owned'>"
WIDTHS = {"desk": 1280, "phone": 360}


@pytest.fixture(scope="module")
def tab(tmp_path_factory):
    with chromium.browser(tmp_path_factory.mktemp("profile")) as tab:
        yield tab


@pytest.fixture(scope="module")
def summary():
    found = good_summary(scene_of_runs()).assign_coords(endmember=["soil", HOSTILE, "a name that is long enough to be broken up"])
    found["abundance_mean"] = found.abundance_mean.where((found.y != 2) | (found.x != 3))
    found["abundance_quantile"] = found.abundance_quantile.where(found.abundance_mean.notnull())
    return found.assign_coords(y=("y", 500.0 - 30 * np.arange(14), {"units": "m"}))


@pytest.fixture(scope="module")
def folder(summary, tmp_path_factory):
    """Every other row and column has an observed spectrum."""
    folder = run_folder(scene_of_runs(), tmp_path_factory.mktemp("run"), summary)
    (folder / "config.json").write_text(json.dumps(CONFIG | {"scene": HOSTILE}))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(pixels, "_SPECTRA_BYTES", 80 * 2 * 40)
        save_pixels(folder, scene_of_runs(), pu.UnmixingModel(3))
    write_report(folder)
    return folder


@pytest.fixture(params=WIDTHS)
def page(tab, folder, request):
    tab.open(folder / "report.html", WIDTHS[request.param])
    yield tab
    assert tab.complaints == []
    elsewhere = [address for address in tab.requests if not address.startswith("data:")]
    assert elsewhere == [(folder / "report.html").as_uri()]


def colours(page) -> np.ndarray:
    """Red, green, blue (y, x, 3) of the map."""
    found = page.value("Array.from(find('cells').getContext('2d').getImageData(0, 0, nColumns, nRows).data)")
    return np.array(found).reshape(14, 20, 4)[..., :3]


def test_it_fits_and_says_what_it_shows(page):
    assert page.value("document.documentElement.scrollWidth <= innerWidth")
    assert page.value("Array.from(document.querySelectorAll('select, button:not([hidden]), .choices label'))"
                      ".every(node => node.getBoundingClientRect().height >= 44)")  # room for a finger
    assert page.value("document.title") == f"Unmixing of {HOSTILE}"
    assert page.value("document.querySelectorAll('img').length") == 4
    assert page.text("#endmember option:nth-child(2)") == HOSTILE
    assert "Map of soil: mean abundance" in page.value("find('map').getAttribute('aria-label')")


def test_a_click_shows_the_pixel(page, summary):
    page.click("#map", across=6.5 / 20, down=4.5 / 14)
    soil = float(summary.abundance_mean[4, 6, 0])
    assert page.text("#pixel") == f"Row 4, column 6, y 380 m. soil, mean abundance (share of the pixel): {soil:.3f}."
    assert page.value("Array.from(document.querySelectorAll('#spectrum path'), path => path.getAttribute('class'))") == [
        "observed", "fitted"]
    fitted = summary.abundance_mean[4, 6].values @ summary.endmember_mean.values
    apart = np.sqrt(np.mean((scene_of_runs().reflectance.values[4, 6] - fitted) ** 2))
    assert float(page.text("#spectrum-note").removesuffix(".").split()[-1]) == pytest.approx(apart, rel=0.02)
    row = page.text("#abundances li:nth-child(1)")
    low, high = summary.abundance_quantile.isel(y=4, x=6, endmember=0, quantile=[0, -1]).clip(0, 1).values
    assert f"mean {soil:.3f}, sd 0.020, 90 % interval {low:.3f} to {high:.3f}" in row
    assert page.text("#abundances li:nth-child(2)").startswith(HOSTILE)


def test_pixels_without_a_spectrum_say_so_and_masked_ones_too(page):
    page.click("#map", across=7.5 / 20, down=5.5 / 14)
    assert "no observed spectrum of this pixel" in page.text("#spectrum-note")
    assert page.value("document.querySelectorAll('#spectrum path').length") == 1
    page.click("#nearest")
    assert page.text("#pixel").startswith("Row 4, column 6") and page.value("find('nearest').hidden")
    page.click("#map", across=3.5 / 20, down=2.5 / 14)
    assert page.text("#pixel") == "Row 2, column 3, y 440 m: masked." and set(colours(page)[2, 3]) == {204}
    assert page.value("document.querySelectorAll('#spectrum path').length") == 0


def test_keys_and_numbers_move_too(page):
    page.click("#map", across=0.5 / 20, down=0.5 / 14)
    for key in ("ArrowRight", "ArrowRight", "ArrowDown", "ArrowUp", "ArrowUp", "ArrowLeft"):
        page.press(key)
    assert page.text("#pixel").startswith("Row 0, column 1,")
    page.value("find('row').value = 13; find('column').value = 17; find('place').requestSubmit()")
    assert page.text("#pixel").startswith("Row 13, column 17,")


def test_the_slider_maps_exceedance(page, summary):
    page.value("find('endmember').value = 1; find('endmember').dispatchEvent(new Event('change'))")
    page.value("find('threshold').value = 0.3; find('threshold').dispatchEvent(new Event('input'))")
    assert page.value("document.querySelector('input[value=exceedance]').checked") and page.text("#chosen") == "0.30"
    assert page.text("#meaning").startswith(f"{HOSTILE}: probability that the abundance is above 0.30")
    quantiles = summary.abundance_quantile.transpose("quantile", "endmember", "y", "x").clip(0, 1).values[:, 1]
    right = by_angle(quantiles.reshape(5, -1), 0.3).reshape(14, 20)
    shown = np.array(page.value("Array.from({length: nPixels}, (_, pixel) => shown(pixel))"), dtype=float).reshape(14, 20)
    np.testing.assert_allclose(shown, np.where(np.isnan(quantiles[0]), np.nan, right), atol=2e-3)
    light = colours(page).sum(axis=-1)
    assert light[right < 0.001].max() < 100 and light[right > 0.999].min() > 500
