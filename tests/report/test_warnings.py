"""Each warning fires when it should and only then."""

from __future__ import annotations

import re

import numpy as np
import pandas as pd
import pytest
import xarray as xr
from runs import CONFIG, found_in, good_history, good_summary, scene_of_runs

from pyro_unmix.report import run, warnings
from pyro_unmix.report.run import Totals


@pytest.fixture(scope="module")
def scene():
    return scene_of_runs()


def of_all(warning, summary):
    return warning(summary, Totals.of(summary))


def test_a_good_run_has_no_warning(scene):
    summary = good_summary(scene)
    assert warnings.find_warnings(summary, Totals.of(summary), good_history(), CONFIG) == []


def test_still_falling():
    assert warnings.still_falling(good_history()) is None
    falling = good_history()
    falling["elbo_loss"] -= 0.05 * falling.step  # 2 in each tenth, in noise of 0.5
    assert re.search(r"still fell by (1\.9|2\.[01]) per pixel", warnings.still_falling(falling))
    noisy = good_history().assign(elbo_loss=lambda h: 20 * np.random.default_rng(1).standard_normal(len(h)))
    assert warnings.still_falling(noisy) is None
    assert warnings.still_falling(good_history(10)) is None  # too short to say


def test_still_falling_looks_at_the_last_stage_with_a_loss():
    first = good_history().assign(stage="early", elbo_loss=lambda h: -h.step / 10)
    after = good_history().assign(stage="calibrate", elbo_loss=np.nan)
    assert warnings.still_falling(pd.concat([first, good_history(), after])) is None
    assert warnings.still_falling(pd.concat([good_history(), first, after])) is not None


def test_poor_fit_and_its_number(scene):
    summary = good_summary(scene)
    assert warnings.poor_fit(Totals.of(summary)) is None
    fitted = summary.abundance_mean.values @ summary.endmember_mean.values
    bad = summary.assign(reconstruction_rmse=0.0 * summary.reconstruction_rmse + 0.3)
    share = np.mean(fitted**2) / (np.mean(fitted**2) + 0.09)
    assert Totals.of(bad).explained == pytest.approx(share, rel=1e-5)
    assert f"{100 * share:.3g} %" in warnings.poor_fit(Totals.of(bad))
    bright = bad.assign(brightness_mean=0.0 * bad.reconstruction_rmse + 10)
    assert warnings.poor_fit(Totals.of(bright)) is None


def test_alike(scene):
    summary = good_summary(scene)
    assert warnings.alike(summary) == []
    twins = summary.assign(endmember_mean=summary.endmember_mean.copy())
    twins.endmember_mean[1] = 0.5 * twins.endmember_mean[0] + 0.001
    (sentence,) = warnings.alike(twins)
    assert "'endmember 1' and 'endmember 2'" in sentence


def test_nearly_absent(scene):
    summary = good_summary(scene)
    assert of_all(warnings.nearly_absent, summary) == []
    faint = summary.abundance_mean * xr.DataArray([1.0, 0.05, 1.0], dims="endmember")
    (sentence,) = of_all(warnings.nearly_absent, summary.assign(abundance_mean=faint))
    assert "'endmember 2' is almost absent" in sentence


def test_mostly_masked(scene):
    summary = good_summary(scene)
    rows = xr.DataArray(np.arange(14), dims="y")
    assert warnings.mostly_masked(Totals.of(summary.assign(abundance_mean=summary.abundance_mean.where(rows >= 2)))) is None
    assert "50 %" in warnings.mostly_masked(Totals.of(summary.assign(abundance_mean=summary.abundance_mean.where(rows >= 7))))


def test_vague(scene):
    summary = good_summary(scene)
    prior = np.sqrt(2 / 36)  # Dirichlet(1, 1, 1): Beta(1, 2), variance 1/18
    sharp, blurred = (xr.full_like(summary.abundance_sd, share * prior) for share in (0.75, 0.9))
    assert warnings.vague(Totals.of(summary.assign(abundance_sd=sharp))) is None
    assert "0.24 without any data" in warnings.vague(Totals.of(summary.assign(abundance_sd=blurred)))


def test_uncalibrated(scene):
    summary = good_summary(scene)
    assert warnings.uncalibrated(summary, {"calibrated": True}) is None
    for config in ({}, {"calibrated": False}, {"calibrated": None}):
        assert "too narrow" in warnings.uncalibrated(summary, config)
        assert warnings.uncalibrated(summary.assign_attrs(findings="Intervals are a best effort."), config) is None


def test_totals_are_those_of_the_whole_however_it_is_read(scene, monkeypatch):
    summary = good_summary(scene)
    summary["abundance_mean"] = summary.abundance_mean.where(summary.y > 1)
    summary["khat"] = xr.full_like(summary.reconstruction_rmse, 0.3).where(summary.x >= 5, 0.9).where(summary.y > 1)
    whole = Totals.of(summary)
    monkeypatch.setattr(run, "_BLOCK", 60)  # three rows
    for one, other in zip(whole, Totals.of(summary), strict=True):
        np.testing.assert_allclose(one, other, rtol=1e-12)
    pixels = ("y", "x")
    assert (whole.pixels, whole.used, whole.weights_failed) == (280, 240, 0.25)
    np.testing.assert_allclose(whole.mean, summary.abundance_mean.mean(pixels), rtol=1e-5)
    np.testing.assert_array_equal(whole.largest, summary.abundance_mean.max(pixels))
    np.testing.assert_allclose(whole.sd, 0.02, rtol=1e-5)


def test_weights_failed(scene):
    summary = good_summary(scene)
    assert of_all(warnings.weights_failed, summary) is None
    pixels = summary.reconstruction_rmse
    few, many = (summary.assign(khat=xr.full_like(pixels, 0.3).where(pixels.x >= columns, np.inf).where(pixels.y > 0))
                 for columns in (1, 5))  # of 20, and a masked row
    assert of_all(warnings.weights_failed, few) is None
    assert re.search("In 25 %.*Refine with more draws", of_all(warnings.weights_failed, many))
    assert "Train longer" in of_all(warnings.weights_failed, many.assign_attrs(refined="re-weighted"))


def test_warnings_do_not_repeat_findings(scene):
    summary = good_summary(scene)
    summary["endmember_mean"] = summary.endmember_mean.copy()
    summary.endmember_mean[1] = 0.5 * summary.endmember_mean[0] + 0.001
    summary["abundance_mean"] = summary.abundance_mean * xr.DataArray([1.0, 0.05, 1.0], dims="endmember")
    twins = np.array([[0.0, 0.01, 0.5], [0.01, 0.0, 0.5], [0.5, 0.5, 0.0]])
    assert len(warnings.alike(summary)) == len(of_all(warnings.nearly_absent, summary)) == 1
    others = summary.assign_attrs(found_in(needed=np.array([1.0, 1.0, 0.0]), purity=np.array([0.3, 1.0, 1.0])))
    assert len(warnings.alike(others)) == len(of_all(warnings.nearly_absent, others)) == 1
    told = summary.assign_attrs(found_in(needed=np.array([0.0, 1.0, 1.0]), angles=twins, purity=np.array([1.0, 0.05, 1.0])))
    assert warnings.alike(told) == of_all(warnings.nearly_absent, told) == []
