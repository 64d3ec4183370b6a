"""The report says what the run folder holds and whether to trust it; each warning fires when it should and only then."""

from __future__ import annotations

import json
import re
from html.parser import HTMLParser

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import pytest
import xarray as xr

from pyro_unmix import metrics, report, simulate
from pyro_unmix.diagnostics import Checks, findings
from pyro_unmix.errors import InputError


@pytest.fixture(scope="module")
def scene():
    return simulate.simulate_scene(3, (14, 20), n_bands=40, concentration=0.5, seed=1)


def good_summary(scene) -> xr.Dataset:
    """A confident, right posterior."""
    truth = scene.reference
    mean, sd = truth.abundances, 0.0 * truth.abundances + 0.02
    level = xr.DataArray([0.05, 0.25, 0.5, 0.75, 0.95], dims="quantile", name="quantile")
    return xr.Dataset({
        "abundance_mean": mean, "abundance_sd": sd,
        "abundance_quantile": (mean + 0.066 * (level - 0.5)).assign_coords(quantile=level),
        "endmember_mean": truth.endmembers, "endmember_sd": 0.0 * truth.endmembers + 0.01,
        "reconstruction_rmse": 0.0 * mean[..., 0] + 0.01,
    }).assign_coords(endmember=["endmember 1", "endmember 2", "<b>sand & gravel</b>"])


def good_history(steps=400) -> pd.DataFrame:
    step = np.arange(steps)
    loss = 1e4 * np.exp(-step / 8) - 50 + 0.5 * np.random.default_rng(0).standard_normal(steps)
    return pd.DataFrame({"step": step, "stage": "svi", "elbo_loss": loss})


CONFIG = {"version": "1.2.3", "seed": 7, "scene": "hill.hdr", "n_endmembers": 3, "guide": {"class": "SpatialAttentionEncoder"},
          "seconds": {"initialize": 1.5, "warm_start": 2.5, "svi": 36.0}, "fit": {"svi_steps": 400}, "calibrated": True}


@pytest.fixture
def folder(scene, tmp_path):
    return run_folder(scene, tmp_path)


@pytest.fixture(scope="module")
def written(scene, tmp_path_factory):
    """A good run's folder with its report."""
    folder = run_folder(scene, tmp_path_factory.mktemp("run"))
    assert report.write_report(folder) == folder / "report.html"
    return folder


def run_folder(scene, folder):
    good_summary(scene).to_netcdf(folder / "summary.nc", engine="h5netcdf")
    good_history().to_csv(folder / "history.csv", index=False)
    (folder / "config.json").write_text(json.dumps(CONFIG))
    (folder / "weights.pt").touch()
    return folder


class Page(HTMLParser):
    """Headings, images and text of a page; every tag must be closed in order."""

    def __init__(self, html: str):
        super().__init__()
        self.open, self.headings, self.images, self.words = [], [], [], []
        self.feed(html)
        assert not self.open

    def handle_starttag(self, tag, attrs):
        if tag == "img":
            self.images.append(dict(attrs))
        elif tag != "meta":
            self.open.append(tag)

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        if self.open and self.open[-1] != "style":
            self.words.append(data)
        if self.open and self.open[-1] in {"h1", "h2"}:
            self.headings.append(data)


def test_the_page_is_whole_and_needs_no_network(written):
    html = (written / "report.html").read_text()
    page = Page(html)
    assert page.headings == ["Unmixing of hill.hdr", "Can the intervals be trusted?", "What was done", "Warnings", "Abundances",
                             "Endmembers", "Where to be careful", "Convergence", "How to read this", "Files in this folder"]
    assert len(page.images) == 4
    assert all(image["src"].startswith("data:image/png;base64,") and image["alt"] for image in page.images)
    assert not re.search(r"(src|href)\s*=\s*['\"]?(https?:|//|file:)|@import|<script|<link", html)
    assert "name='viewport'" in html and "lang='en'" in html
    assert not list(written.glob(".report*")) and not plt.get_fignums()


def test_the_page_says_what_was_done(written):
    text = " ".join(Page((written / "report.html").read_text()).words)
    for words in ("14 × 20 pixels (280 in use), 40 bands from 400 to 2500 nm", "SpatialAttentionEncoder", "pyro_unmix 1.2.3",
                  "initialize 1.5 s, warm start 2.5 s, svi 36.0 s; together 40.0 s", "every other check of this run passed",
                  "weights.pt", "svi_steps", "Energy explained"):
        assert words in text
    assert "draws.nc" not in text


def test_names_are_escaped(written):
    html = (written / "report.html").read_text()
    assert "<b>sand" not in html and "&lt;b&gt;sand &amp; gravel" in html


def test_a_bare_run_is_tolerated_and_an_evaluation_shown(folder, scene):
    found = metrics.evaluate(good_summary(scene), scene.reference)
    (folder / "config.json").write_text(json.dumps({"evaluation": found.to_dict() | {"from a later version": 1}}))
    good_history().assign(elbo_loss=np.nan).to_csv(folder / "history.csv", index=False)
    page = Page(report.write_report(folder).read_text())
    text = " ".join(page.words)
    assert "not recorded" in text and "No training loss was recorded" in text
    assert "expected to be too narrow" in text and "passed" not in text
    assert "Against the reference" in page.headings and "90 % interval covers" in text


@pytest.mark.parametrize("name", ["summary.nc", "history.csv", "config.json"])
def test_missing_or_damaged_files_are_refused(folder, name):
    (folder / name).write_bytes(b"")
    with pytest.raises(InputError, match="can(not)? be read"):
        report.write_report(folder)
    (folder / name).unlink()
    with pytest.raises(InputError, match=f"no {name}"):
        report.write_report(folder)
    assert not (folder / "report.html").exists()


def test_a_good_run_has_no_warning(scene):
    assert report.find_warnings(good_summary(scene), good_history(), CONFIG) == []


def test_still_falling():
    assert report.still_falling(good_history()) is None
    falling = good_history()
    falling["elbo_loss"] -= 0.05 * falling.step  # 2 in each tenth, in noise of 0.5
    assert re.search(r"still fell by (1\.9|2\.[01]) per pixel", report.still_falling(falling))
    noisy = good_history().assign(elbo_loss=lambda h: 20 * np.random.default_rng(1).standard_normal(len(h)))
    assert report.still_falling(noisy) is None
    assert report.still_falling(good_history(10)) is None  # too short to say


def test_still_falling_looks_at_the_last_stage_with_a_loss():
    first = good_history().assign(stage="early", elbo_loss=lambda h: -h.step / 10)
    after = good_history().assign(stage="calibrate", elbo_loss=np.nan)
    assert report.still_falling(pd.concat([first, good_history(), after])) is None
    assert report.still_falling(pd.concat([good_history(), first, after])) is not None


def test_poor_fit_and_its_number(scene):
    summary = good_summary(scene)
    assert report.poor_fit(summary) is None
    fitted = summary.abundance_mean.values @ summary.endmember_mean.values
    bad = summary.assign(reconstruction_rmse=0.0 * summary.reconstruction_rmse + 0.3)
    share = np.mean(fitted**2) / (np.mean(fitted**2) + 0.09)
    assert report.explained_energy(bad) == pytest.approx(share, rel=1e-5)
    assert f"{100 * share:.3g} %" in report.poor_fit(bad)
    bright = bad.assign(brightness_mean=0.0 * bad.reconstruction_rmse + 10)
    assert report.poor_fit(bright) is None


def test_alike(scene):
    summary = good_summary(scene)
    assert report.alike(summary) == []
    twins = summary.assign(endmember_mean=summary.endmember_mean.copy())
    twins.endmember_mean[1] = 0.5 * twins.endmember_mean[0] + 0.001
    (sentence,) = report.alike(twins)
    assert "'endmember 1' and 'endmember 2'" in sentence


def test_nearly_absent(scene):
    summary = good_summary(scene)
    assert report.nearly_absent(summary) == []
    faint = summary.abundance_mean * xr.DataArray([1.0, 0.05, 1.0], dims="endmember")
    (sentence,) = report.nearly_absent(summary.assign(abundance_mean=faint))
    assert "'endmember 2' is almost absent" in sentence


def test_mostly_masked(scene):
    summary = good_summary(scene)
    rows = xr.DataArray(np.arange(14), dims="y")
    assert report.mostly_masked(summary.assign(abundance_mean=summary.abundance_mean.where(rows >= 2))) is None
    assert "50 %" in report.mostly_masked(summary.assign(abundance_mean=summary.abundance_mean.where(rows >= 7)))


def test_vague(scene):
    summary = good_summary(scene)
    prior = np.sqrt(2 / 36)  # Dirichlet(1, 1, 1): Beta(1, 2), variance 1/18
    sharp, blurred = (xr.full_like(summary.abundance_sd, share * prior) for share in (0.75, 0.9))
    assert report.vague(summary.assign(abundance_sd=sharp)) is None
    assert "0.24 without any data" in report.vague(summary.assign(abundance_sd=blurred))


def test_uncalibrated(scene):
    summary = good_summary(scene)
    assert report.uncalibrated(summary, {"calibrated": True}) is None
    for config in ({}, {"calibrated": False}, {"calibrated": None}):
        assert "too narrow" in report.uncalibrated(summary, config)
        assert report.uncalibrated(summary.assign_attrs(findings="Intervals are a best effort."), config) is None


def test_weights_failed(scene):
    summary = good_summary(scene)
    assert report.weights_failed(summary) is None
    pixels = summary.reconstruction_rmse
    few, many = (summary.assign(khat=xr.full_like(pixels, 0.3).where(pixels.x >= columns, np.inf).where(pixels.y > 0))
                 for columns in (1, 5))  # of 20, and a masked row
    assert report.weights_failed(few) is None
    assert re.search("In 25 %.*Refine with more draws", report.weights_failed(many))
    assert "Train longer" in report.weights_failed(many.assign_attrs(refined="re-weighted"))


NAMES = ["endmember 1", "endmember 2", "<b>sand & gravel</b>"]


def found_in(**changed) -> dict[str, str]:
    """Attributes of a summary whose residuals are white, but for what is changed."""
    like = xr.DataArray(np.full((14, 20), 37.0), dims=("y", "x"))
    checks = dict(chi_square=like, degrees_of_freedom=like, reduced_chi_square=1.0, noise_ratio=1.0, structures=0, strongest=0.9,
                  effective_bands=37.0, band_correlation=0.0, pixel_correlation=0.0, signal_correlation=0.0, misfit=3.0,
                  misfit_least=2.5, misfit_freed=2.4, brightness_scatter=0.0, needed=np.ones(3), purity=np.ones(3),
                  angles=np.full((3, 3), 0.02), with_brightness=True)
    found = findings(Checks(**(checks | changed)), names=NAMES)
    return {"intervals": found[-1].name, "findings": "\n".join(map(str, found))}


@pytest.fixture
def no_pictures(monkeypatch):
    """They take most of the time."""
    monkeypatch.setattr(report, "_picture", lambda figure, *words: plt.close(figure) or "")


def page_of(folder, scene, attributes) -> Page:
    good_summary(scene).assign_attrs(attributes).to_netcdf(folder / "summary.nc", engine="h5netcdf")
    return Page(report.write_report(folder).read_text())


def test_the_page_says_whether_intervals_can_be_trusted(no_pictures, folder, scene):
    text = " ".join(page_of(folder, scene, found_in()).words)
    assert "Yes, as far as the scene can tell." in text and "Intervals can be trusted" in text
    assert "what to do" not in text and "refined" not in text


def test_the_page_says_what_was_found_and_what_to_do(no_pictures, folder, scene):
    attributes = found_in(band_correlation=0.7, needed=np.array([1.0, 1.0, 0.0]))
    page = page_of(folder, scene, attributes | {"refined": "cut"})
    text = " ".join(page.words)
    assert "they are a best effort" in text and "Yes, as" not in text and "a cut posterior" in text
    for sentence in attributes["findings"].split("\n"):
        assert text.count(sentence) == 1
    assert text.index("what to do") < text.index("What was done")
    assert "<b>sand" not in (folder / "report.html").read_text()


def test_a_summary_that_says_nothing_of_trust_has_a_report(written):
    assert "Not known: this summary does not say." in " ".join(Page((written / "report.html").read_text()).words)


@pytest.mark.parametrize("method", ["exact", "cut", "re-weighted"])
def test_the_page_says_how_the_posterior_was_refined(no_pictures, folder, scene, method):
    text = " ".join(page_of(folder, scene, found_in() | {"refined": method}).words)
    assert text.count("The posterior was refined") == 1


def test_warnings_do_not_repeat_findings(scene):
    summary = good_summary(scene)
    summary["endmember_mean"] = summary.endmember_mean.copy()
    summary.endmember_mean[1] = 0.5 * summary.endmember_mean[0] + 0.001
    summary["abundance_mean"] = summary.abundance_mean * xr.DataArray([1.0, 0.05, 1.0], dims="endmember")
    twins = np.array([[0.0, 0.01, 0.5], [0.01, 0.0, 0.5], [0.5, 0.5, 0.0]])
    assert len(report.alike(summary)) == len(report.nearly_absent(summary)) == 1
    others = summary.assign_attrs(found_in(needed=np.array([1.0, 1.0, 0.0]), purity=np.array([0.3, 1.0, 1.0])))
    assert len(report.alike(others)) == len(report.nearly_absent(others)) == 1
    told = summary.assign_attrs(found_in(needed=np.array([0.0, 1.0, 1.0]), angles=twins, purity=np.array([1.0, 0.05, 1.0])))
    assert report.alike(told) == report.nearly_absent(told) == []
