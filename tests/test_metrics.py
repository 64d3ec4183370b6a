"""Metrics against values known by hand, by formula or by simulation."""

from __future__ import annotations

import json

import numpy as np
import pytest
import xarray as xr
from scipy import stats

from pyro_unmix import metrics
from pyro_unmix.errors import InputError

LEVELS = np.array([0.05, 0.25, 0.5, 0.75, 0.95])
NAMES = ["soil", "water", "tree"]


def reference(rows=30, cols=20, k=3, bands=12, seed=0) -> xr.Dataset:
    rng = np.random.default_rng(seed)
    return xr.Dataset(
        {"abundances": (("y", "x", "endmember"), rng.dirichlet(np.ones(k), (rows, cols))),
         "endmembers": (("endmember", "wavelength"), rng.uniform(0.1, 0.9, (k, bands)))},
        coords={"endmember": NAMES[:k], "wavelength": ("wavelength", np.linspace(400, 2500, bands), {"units": "nm"})})


def summary(truth: xr.Dataset, spread=0.05, claimed=None, order=(2, 0, 1), ratio=(1.0, 1.0, 1.0), seed=1) -> xr.Dataset:
    """A posterior whose truth is a draw of N(mean, spread), that claims N(mean, claimed), shuffled and rescaled."""
    rng = np.random.default_rng(seed)
    order, ratio = list(order), np.asarray(ratio)
    own = metrics.match_amplitude(truth.abundances.values, 1 / ratio)
    mean = own + spread * rng.standard_normal(own.shape)
    quantile = mean + (spread if claimed is None else claimed) * stats.norm.ppf(LEVELS)[:, None, None, None]
    return xr.Dataset(
        {"abundance_mean": (("y", "x", "endmember"), mean[..., order]),
         "abundance_quantile": (("quantile", "y", "x", "endmember"), quantile[..., order]),
         "endmember_mean": (("endmember", "wavelength"), (truth.endmembers.values * ratio[:, None])[order])},
        coords={"quantile": LEVELS, "endmember": [f"endmember {i + 1}" for i in range(len(order))],
                "wavelength": truth.wavelength})


def test_spectral_angle_by_hand():
    assert metrics.spectral_angle([1.0, 0.0], [1.0, 1.0]) == pytest.approx(np.pi / 4)
    assert metrics.spectral_angle([1.0, 2.0], [10.0, 20.0]) == pytest.approx(0.0, abs=1e-12)
    assert metrics.spectral_angle([0.0, 0.0], [1.0, 1.0]) == pytest.approx(np.pi / 2)
    assert metrics.spectral_angle([1.0, 0.0], [1.0, 1e-9]) == pytest.approx(1e-9, rel=1e-6)
    assert metrics.spectral_angle(np.ones((4, 1, 3)), np.ones((5, 3))).shape == (4, 5)


def test_match_undoes_a_shuffle_whatever_the_amplitude():
    known = reference(k=3).endmembers.values
    shuffle = np.array([1, 2, 0])
    order = metrics.match(known[shuffle] * np.array([[3.0], [0.1], [1.0]]), known)
    np.testing.assert_array_equal(shuffle[order], [0, 1, 2])


def test_match_takes_the_least_total_not_the_nearest_first():
    def at(*degrees):
        return np.array([[np.cos(np.radians(d)), np.sin(np.radians(d))] for d in degrees])

    # 12 is nearest to 10, but then 0 would have to pair with 15 and the total be 17 instead of 13.
    np.testing.assert_array_equal(metrics.match(at(12, 0), at(15, 10)), [0, 1])


def test_match_refuses_another_shape():
    with pytest.raises(InputError, match=r"shape \(3, 4\)"):
        metrics.match(np.ones((2, 4)), np.ones((3, 4)))


def test_rmse_is_over_pixels_and_endmembers_and_leaves_nan_out():
    a = np.array([[[0.0, 1.0], [np.nan, np.nan]]])
    b = np.array([[[0.3, 0.7], [0.5, 0.5]]])
    assert metrics.rmse(a, b) == pytest.approx(0.3)


def test_match_amplitude_keeps_the_mixed_spectrum_up_to_brightness():
    rng = np.random.default_rng(0)
    endmembers, ratio = rng.uniform(size=(3, 8)), np.array([2.0, 0.5, 1.3])
    abundances = rng.dirichlet(np.ones(3), 50)
    moved = metrics.match_amplitude(abundances, ratio)
    np.testing.assert_allclose(moved.sum(-1), 1.0)
    assert metrics.spectral_angle(abundances @ endmembers, moved @ (endmembers / ratio[:, None])).max() < 1e-7
    np.testing.assert_allclose(metrics.match_amplitude(moved, 1 / ratio), abundances)
    with pytest.raises(InputError, match="positive"):
        metrics.match_amplitude(abundances, [1.0, 0.0, 1.0])


def test_a_perfect_summary_of_another_amplitude_and_order_scores_zero():
    truth = reference()
    found = metrics.evaluate(summary(truth, spread=0.0, claimed=0.01, ratio=(1.0, 2.0, 0.5)), truth)
    assert found.pairing == {"soil": "endmember 2", "water": "endmember 3", "tree": "endmember 1"}
    assert found.rmse == pytest.approx(0.0, abs=1e-9) and found.sad == pytest.approx(0.0, abs=1e-9)
    assert found.rmse_unmatched > 0.1
    assert found.coverage_90 == found.coverage_50 == 1.0
    assert found.amplitude == "L2 norm"


@pytest.mark.parametrize("ratio", [(1.0, 1.0, 1.0), (1.0, 3.0, 0.4)])
def test_coverage_of_a_calibrated_summary_is_nominal(ratio):
    """1,800 values: the share has a standard error of .007 (90 %) and .012 (50 %); four of those fail once in 8,000."""
    truth = reference()
    found = metrics.evaluate(summary(truth, ratio=ratio), truth)
    assert abs(found.coverage_90 - 0.9) < 0.028
    assert abs(found.coverage_50 - 0.5) < 0.047
    assert found.width_90 == pytest.approx(2 * 1.645 * 0.05, rel=1e-3)
    assert np.mean(list(found.coverage_90_per_endmember.values())) == pytest.approx(found.coverage_90)


def test_negative_control_an_overconfident_summary_does_not_cover():
    truth = reference()
    found = metrics.evaluate(summary(truth, claimed=0.05 / 3), truth)
    assert found.coverage_90 < 0.5 and found.coverage_90_interior < 0.5


def test_interior_leaves_out_exact_zeros():
    truth = reference()
    truth["abundances"][:15] = np.array([1.0, 0.0, 0.0])
    claims = summary(truth, spread=0.0, claimed=0.001)
    # A continuous posterior never holds 0 or 1.
    claims["abundance_quantile"] = claims.abundance_quantile.clip(1e-6, 1 - 1e-6)
    found = metrics.evaluate(claims, truth)
    assert found.coverage_90 < 0.6 and found.coverage_90_interior == 1.0


def test_crps_of_a_point_is_the_absolute_error_and_of_a_normal_the_known_value():
    truth = reference(rows=60, cols=60)
    point = summary(truth, spread=0.05, claimed=0.0)
    found = metrics.evaluate(point, truth)
    error = point.isel(endmember=[1, 2, 0]).abundance_mean.values - truth.abundances.values
    assert found.crps == pytest.approx(np.abs(error).mean(), rel=1e-6)
    normal = metrics.evaluate(summary(truth), truth)
    assert normal.crps == pytest.approx(0.05 / np.sqrt(np.pi), rel=0.05)  # Gneiting & Raftery (2007), eq. 21, averaged
    worse = [metrics.evaluate(summary(truth, claimed=c), truth).crps for c in (0.01, 0.25)]
    assert min(worse) > normal.crps


def test_masked_pixels_are_left_out_on_both_sides():
    truth = reference()
    claims = summary(truth)
    whole = metrics.evaluate(claims.isel(y=slice(5, 25)), truth.isel(y=slice(5, 25)))
    row = xr.DataArray(np.arange(30), dims="y")
    claims = claims.assign({name: claims[name].where(row >= 5) for name in ("abundance_mean", "abundance_quantile")})
    masked = metrics.evaluate(claims, truth.assign(abundances=truth.abundances.where(row < 25)))
    assert masked.n_pixels == whole.n_pixels == 400
    for name in ("rmse", "coverage_90", "width_90", "crps"):
        assert getattr(masked, name) == pytest.approx(getattr(whole, name))


def test_without_reference_spectra_abundances_pair_and_nothing_is_rescaled():
    truth = reference()
    found = metrics.evaluate(summary(truth, spread=0.01), truth.drop_vars("endmembers"))
    assert found.pairing["soil"] == "endmember 2"
    assert found.sad is None and found.rmse == found.rmse_unmatched < 0.02
    assert "nothing" in found.amplitude


def test_without_reference_abundances_only_angles():
    truth = reference()
    found = metrics.evaluate(summary(truth), truth.drop_vars("abundances"))
    assert found.rmse is None and found.coverage_90 is None and found.sad == pytest.approx(0.0, abs=1e-6)


def test_a_point_estimate_without_quantiles_has_no_coverage():
    truth = reference()
    found = metrics.evaluate(summary(truth).drop_vars("abundance_quantile"), truth)
    assert found.coverage_90 is None and found.rmse > 0


def test_aligned_reference_makes_the_summarys_own_mixture():
    truth = reference()
    claims = summary(truth, spread=0.0, ratio=(1.0, 3.0, 0.4))
    aligned, order, ratio = metrics.align_reference(claims, truth)
    own = claims.isel(endmember=order)
    np.testing.assert_allclose(aligned.abundances.values, own.abundance_mean.values, atol=1e-12)
    np.testing.assert_allclose(aligned.endmembers.values, own.endmember_mean.values)
    np.testing.assert_allclose(ratio, (1.0, 3.0, 0.4))
    assert list(aligned.endmember.values) == NAMES


def test_output_is_json_and_text():
    truth = reference()
    found = metrics.evaluate(summary(truth), truth)
    assert json.loads(json.dumps(found.to_dict()))["pairing"]["tree"] == "endmember 1"
    text = str(found)
    assert f"{found.rmse:.4f}" in text and "soil" in text and "L2 norm" in text
    assert max(map(len, text.splitlines())) < 80


@pytest.mark.parametrize("change, message", [
    (lambda r: r.isel(endmember=slice(2)), "2 endmembers"),
    (lambda r: r.isel(y=slice(10)), "along 'y'"),
    (lambda r: r.isel(wavelength=slice(10)), "along 'wavelength'"),
    (lambda r: r.assign_coords(wavelength=("wavelength", r.wavelength.values + 33, {"units": "nm"})), "33 nm off"),
    (lambda r: r.assign_coords(endmember=["a", "a", "b"]), "differ"),
    (lambda r: r.drop_vars(["abundances", "endmembers"]).assign(other=("endmember", [1, 2, 3])), "neither"),
    (lambda r: r.assign(endmembers=r.endmembers * np.array([[0], [1], [1]])), "positive L2 norm"),
    (lambda r: r.assign(abundances=r.abundances * np.nan), "at least one pixel"),
    (lambda r: xr.Dataset({"a": ("x", [1.0])}), "dimension 'endmember'"),
])
def test_what_cannot_be_compared_is_refused(change, message):
    truth = reference()
    with pytest.raises(InputError, match=message):
        metrics.evaluate(summary(truth), change(truth))
