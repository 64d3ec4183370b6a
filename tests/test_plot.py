"""What the figures show is what the summary holds."""

from __future__ import annotations

from types import SimpleNamespace

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import pytest
import xarray as xr
from matplotlib import colormaps
from matplotlib.figure import Figure
from scipy import stats

from pyro_unmix import plot, simulate
from pyro_unmix.diagnostics.calibration import coverage_curve
from pyro_unmix.errors import InputError


@pytest.fixture(autouse=True)
def _close_figures():
    plt.switch_backend("agg")
    yield
    plt.close("all")


def posterior(scene, shift=1, scale=1.0) -> xr.Dataset:
    """A summary that knows the truth, its endmembers in another order and amplitude."""
    truth = scene.reference.roll(endmember=shift)
    return xr.Dataset(
        {"abundance_mean": truth.abundances, "abundance_sd": 0.1 * truth.abundances + 0.01,
         "endmember_mean": scale * truth.endmembers, "endmember_sd": 0.0 * truth.endmembers + 0.02,
         "reconstruction_rmse": 0.0 * truth.abundances[..., 0] + 0.03},
    ).assign_coords(endmember=[f"endmember {i + 1}" for i in range(truth.sizes["endmember"])])


def history(steps=600, **columns) -> pd.DataFrame:
    step = np.arange(steps)
    noise = np.random.default_rng(0).standard_normal(steps)
    return pd.DataFrame({"step": step, "elbo_loss": 1e5 * np.exp(-step / 5) - 20 + noise, **columns})


def images(figure: Figure):
    return [(axis, axis.images[0]) for axis in figure.axes if axis.images]


@pytest.fixture(scope="module")
def scene():
    return simulate.simulate_scene(3, (12, 18), n_bands=40, seed=1)


def test_maps_show_the_summary_on_common_scales(scene):
    post = posterior(scene)
    panels = images(plot.abundance_maps(post))
    assert [a.get_title() for a, _ in panels] == ["endmember 1", "endmember 2", "endmember 3", "", "", ""]
    for k in range(3):
        np.testing.assert_allclose(panels[k][1].get_array(), post.abundance_mean[..., k])
        np.testing.assert_allclose(panels[3 + k][1].get_array(), post.abundance_sd[..., k])
    assert {im.get_clim() for _, im in panels[:3]} == {(0.0, 1.0)}
    assert len({im.get_clim() for _, im in panels[3:]}) == 1
    assert all(a.get_aspect() == 1.0 for a, _ in panels)


@pytest.mark.parametrize("k", [2, 7, 12])
def test_maps_wrap(k):
    many = simulate.simulate_scene(k, (6, 8), n_bands=60)
    figure = plot.abundance_maps(posterior(many))
    panels = images(figure)
    assert len(panels) == 2 * k
    assert [a.get_title() for a, _ in panels if a.get_title()] == [f"endmember {i + 1}" for i in range(k)]
    assert figure.get_size_inches()[0] < 14


def test_masked_pixels_are_grey(scene):
    post = posterior(scene)
    post["abundance_mean"] = post.abundance_mean.where(xr.DataArray(np.arange(12) > 2, dims="y"))
    _, image = images(plot.abundance_maps(post))[0]
    np.testing.assert_array_equal(np.ma.getmaskarray(image.get_array())[:, 0], np.arange(12) <= 2)
    assert image.cmap.get_bad()[0] == pytest.approx(0.8)


def test_reference_maps_stand_under_their_endmember_in_its_amplitude(scene):
    post = posterior(scene, shift=1)
    panels = images(plot.abundance_maps(post, scene.reference))
    assert [a.get_title() for a, _ in panels[6:]] == ["material 3", "material 1", "material 2"]
    for k in range(3):
        np.testing.assert_allclose(panels[6 + k][1].get_array(), post.abundance_mean[..., k], atol=1e-5)
    doubled = post.assign(endmember_mean=post.endmember_mean * xr.DataArray([2.0, 1.0, 1.0], dims="endmember"))
    moved = images(plot.abundance_maps(doubled, scene.reference))[6][1].get_array()
    assert moved.mean() < post.abundance_mean[..., 0].mean()


def lines(axis, colour):
    return [line for line in axis.lines if line.get_color() == colour]


def test_endmembers_show_mean_interval_and_reference(scene):
    post = posterior(scene, scale=1.7)
    figure = plot.endmembers(post, scene.reference)
    panels = figure.axes
    assert panels[0].get_title() == "endmember 1\n(reference: material 3)"
    for k in range(3):
        (mean,) = lines(panels[k], "#0072b2")
        np.testing.assert_allclose(mean.get_ydata(), post.endmember_mean[k])
        (known,) = lines(panels[k], "#d55e00")
        np.testing.assert_allclose(known.get_ydata(), post.endmember_mean[k], rtol=1e-5)
        low = panels[k].collections[0].get_paths()[0].vertices[:, 1].min()
        assert low == pytest.approx(float((post.endmember_mean[k] - 1.645 * 0.02).min()), abs=1e-6)
    assert "wavelength (nm)" in figure.get_supxlabel()
    assert any("1.645 sd" in text.get_text() for text in figure.legends[0].get_texts())


def test_endmembers_are_sorted_and_gaps_stay_open():
    bands = np.r_[np.linspace(1450, 1800, 30), np.linspace(400, 1340, 60)]  # not sorted, and a gap at 1340 to 1450
    post = posterior(simulate.simulate_scene(2, (4, 4), wavelengths=bands))
    (mean,) = lines(plot.endmembers(post).axes[0], "#0072b2")
    x, y = mean.get_xdata(), mean.get_ydata()
    assert np.flatnonzero(np.isnan(x)).tolist() == np.flatnonzero(np.isnan(y)).tolist() == [60]
    assert (np.diff(x[np.isfinite(x)]) > 0).all()
    np.testing.assert_allclose(y[:60], post.endmember_mean[0, 30:])


def test_endmembers_without_wavelengths_are_drawn_by_band(scene):
    post = posterior(scene).assign_coords(wavelength=("wavelength", np.arange(40), {"units": "1"}))
    assert plot.endmembers(post).get_supxlabel() == "band number"


def test_uncertainty_sums_variances(scene):
    post = posterior(scene)
    (_, total), (_, residual) = images(plot.uncertainty(post))
    np.testing.assert_allclose(total.get_array(), np.sqrt((post.abundance_sd.values**2).sum(-1)))
    np.testing.assert_allclose(residual.get_array(), 0.03, rtol=1e-6)


def test_loss_is_not_crushed_by_its_first_steps():
    axis = plot.loss(history()).axes[0]
    low, high = axis.get_ylim()
    assert -30 < low < -20 < high < 0
    assert "lie above the frame" in axis.texts[0].get_text()


def test_loss_has_a_panel_for_each_stage_with_its_own_scale():
    both = pd.concat([history(stage="warm_start"), history(stage="svi").assign(elbo_loss=lambda h: h.elbo_loss + 1e4)])
    first, second = plot.loss(both).axes
    assert (first.get_title(), second.get_title()) == ("warm start", "svi")
    assert first.get_ylim()[1] < second.get_ylim()[0]


def test_loss_leaves_out_what_is_not_finite():
    frame = history()
    frame.loc[:99, "elbo_loss"] = np.nan
    assert len(plot.loss(frame).axes[0].lines[0].get_xdata()) == 500
    with pytest.raises(InputError, match="finite"):
        plot.loss(frame[:100])
    with pytest.raises(InputError, match="elbo_loss"):
        plot.loss(frame.drop(columns="elbo_loss"))


def test_a_posterior_is_as_good_as_its_summary(scene):
    class Posterior:
        def summary(self):
            return posterior(scene)

    for draw in (plot.abundance_maps, plot.endmembers, plot.uncertainty):
        assert isinstance(draw(Posterior()), Figure)


def test_what_cannot_be_drawn_is_refused(scene):
    post = posterior(scene)
    with pytest.raises(InputError, match="a posterior or its summary, got a list"):
        plot.uncertainty([1, 2])
    with pytest.raises(InputError, match="no abundance_sd"):
        plot.abundance_maps(post.drop_vars("abundance_sd"))
    with pytest.raises(InputError, match="with abundances"):
        plot.abundance_maps(post, scene.reference.drop_vars("abundances"))
    with pytest.raises(InputError, match="with endmembers"):
        plot.endmembers(post, scene.reference.drop_vars("endmembers"))


def test_a_notebook_shows_a_figure_once(scene, monkeypatch):
    figure = plot.uncertainty(posterior(scene))
    with pytest.raises(NotImplementedError):  # IPython then displays it as usual
        figure._ipython_display_()
    assert plt.fignum_exists(figure.number)
    monkeypatch.setattr(plt, "get_backend", lambda: "inline")
    with pytest.raises(NotImplementedError):
        figure._ipython_display_()
    assert not plt.fignum_exists(figure.number)  # so that the end of the cell does not show it again


def benchmark_results():
    return pd.DataFrame([
        dict(scene=scene, kind=kind, method=method, seed=seed, rmse=0.1 + 0.01 * seed, sad=0.2 + 0.01 * seed)
        for scene, kind in (("samson", "real"), ("urban", "real"), ("made", "simulated"))
        for method in ("vca", "vca/l2", "spa", "start", "pyro_unmix") for seed in range(3)])


def test_benchmark_shows_every_run_on_the_line_of_its_scene():
    results = benchmark_results()
    results.loc[(results.scene == "urban") & (results.method == "spa"), ["rmse", "sad"]] = np.nan  # failed
    left, right = plot.benchmark(results).axes
    assert [label.get_text() for label in left.get_yticklabels()] == ["samson", "urban", "made"]
    for axis, column in ((left, "rmse"), (right, "sad")):
        assert axis.get_xscale() == "log"
        drawn = {line.get_label(): line for line in axis.lines if not line.get_label().startswith("_")}
        assert list(drawn) == list(results.method.unique())
        for method, points in drawn.items():
            part = results[results.method == method]
            np.testing.assert_array_equal(points.get_xdata(), part[column])
            assert [round(y) for y in points.get_ydata()] == list(part.scene.map({"samson": 0, "urban": 1, "made": 2}))
    looks = {(line.get_marker(), line.get_markeredgecolor(), line.get_markerfacecolor()) for line in drawn.values()}
    assert len(looks) == 5  # no two methods look the same
    assert [text.get_text() for text in right.texts] == ["real", "simulated"]


def test_benchmark_tells_nine_methods_in_two_units_apart():
    names = [f"m{i}{unit}" for i in range(9) for unit in ("", "/l2")]
    results = pd.DataFrame({"scene": "a", "kind": "real", "method": names, "rmse": 0.1, "sad": 0.1})
    lines = [line for line in plot.benchmark(results).axes[0].lines if line.get_label() in names]
    assert len({(line.get_marker(), line.get_markeredgecolor(), line.get_markerfacecolor()) for line in lines}) == 18


def test_benchmark_refuses_what_it_cannot_draw():
    with pytest.raises(InputError, match="no sad"):
        plot.benchmark(benchmark_results().drop(columns="sad"))
    with pytest.raises(InputError, match="finite"):
        plot.benchmark(benchmark_results().assign(rmse=np.nan, sad=np.nan))


def experiment_results():
    return pd.DataFrame([
        dict(scene=scene, mode=mode, encoder=encoder, head=head, seed=seed, rmse=0.1 + 0.01 * seed, sad=0.2, coverage_90=0.8)
        for scene in ("samson", "urban") for mode in ("blind", "supervised") for encoder in ("mlp", "cnn")
        for head in ("auto", "softmax") for seed in range(2)])


def test_experiment_shows_every_run():
    results = experiment_results()
    axes = plot.experiment(results, lines=["scene", "mode"], colour="encoder", hollow="head").axes
    assert [label.get_text() for label in axes[0].get_yticklabels()] == [
        "samson, blind", "samson, supervised", "urban, blind", "urban, supervised"]
    drawn = {line.get_label(): line for line in axes[0].lines if not line.get_label().startswith("_")}
    assert list(drawn) == ["mlp, auto", "mlp, softmax", "cnn, auto", "cnn, softmax"]
    assert {name: line.get_markerfacecolor() == "none" for name, line in drawn.items()} == {
        name: name.endswith("softmax") for name in drawn}
    for name, points in drawn.items():
        part = results[(results.encoder + ", " + results["head"]) == name]
        np.testing.assert_array_equal(points.get_xdata(), part.rmse)
        assert [round(y) for y in points.get_ydata()] == [0, 0, 1, 1, 2, 2, 3, 3]
    alone = plot.experiment(results, lines=["scene"], colour="encoder").axes[0]
    assert [line.get_label() for line in alone.lines if not line.get_label().startswith("_")] == ["mlp", "cnn"]


def test_experiment_refuses_what_it_cannot_draw():
    with pytest.raises(InputError, match="no head"):
        plot.experiment(experiment_results().drop(columns="head"), lines=["scene"], colour="encoder", hollow="head")
    with pytest.raises(InputError, match="finite"):
        plot.experiment(experiment_results().assign(rmse=np.nan, sad=np.nan), lines=["scene"], colour="encoder")


class Stub:
    """A posterior that holds its answers."""

    def __init__(self, scene, *, khat=None, intervals="trusted", findings="All is white.", residuals=True):
        self.scene, self.residuals = scene, residuals
        levels = xr.DataArray([0.05, 0.5, 0.95], dims="quantile", coords={"quantile": [0.05, 0.5, 0.95]})
        summary = posterior(scene).assign_attrs(intervals=intervals, findings=findings)
        summary["abundance_quantile"] = summary.abundance_mean + 0.2 * (levels - 0.5)
        self._summary = summary if khat is None else summary.assign(khat=khat)

    def summary(self):
        return self._summary

    def checks(self):
        if not self.residuals:
            raise InputError("linear mixing", "another")
        like = xr.full_like(self._summary.reconstruction_rmse, 37.0)
        return SimpleNamespace(chi_square=2.0 * like, degrees_of_freedom=like)

    def exceedance(self, threshold):
        return (self._summary.abundance_mean > threshold).astype(float)


def test_exceedance_is_of_the_threshold_and_on_one_scale(scene):
    post = Stub(scene)
    figure = plot.exceedance(post, 0.3)
    panels = images(figure)
    for k, (axis, image) in enumerate(panels):
        assert axis.get_title() == f"endmember {k + 1}" and image.get_clim() == (0.0, 1.0)
        np.testing.assert_array_equal(image.get_array(), post.summary().abundance_mean[..., k] > 0.3)
    assert "abundance > 0.3" in figure.axes[-1].get_ylabel()
    with pytest.raises(InputError, match="a posterior, got a Dataset"):
        plot.exceedance(post.summary(), 0.3)


def test_confidence_fades_to_white_where_nothing_is_known(scene):
    summary = Stub(scene).summary()
    sure, unsure = 0.0 * summary.abundance_quantile, (summary["quantile"] > 0.5) + 0.0 * summary.abundance_quantile
    here = xr.DataArray(np.arange(12), dims="y")
    summary["abundance_quantile"] = sure.where(here < 6, unsure)
    summary["abundance_mean"] = summary.abundance_mean.where(here > 0)
    figure = plot.confidence_maps(summary)
    for k in range(3):
        drawn = figure.axes[k].images[0].get_array()
        expected = colormaps["viridis"](summary.abundance_mean.values[1:6, :, k])[..., :3]
        np.testing.assert_allclose(drawn[1:6], expected)
        np.testing.assert_allclose(drawn[6:], 1.0)
        np.testing.assert_allclose(drawn[0], 0.8)  # masked


def test_the_legend_of_confidence_goes_up_to_what_is_known_without_data(scene):
    figure = plot.confidence_maps(Stub(scene))
    legend = figure.axes[-1]
    # Dirichlet(1, 1, 1): abundances have P(less than a) = 1 - (1 - a)^2.
    assert legend.get_ylim() == pytest.approx((0.0, np.sqrt(0.95) - np.sqrt(0.05)))
    assert legend.get_xlabel() == "mean abundance" and "90 % interval" in legend.get_ylabel()
    with pytest.raises(InputError, match="quantiles at 0.05 and 0.95"):
        plot.confidence_maps(Stub(scene).summary().isel(quantile=[1, 2]))


def test_trust_shows_chi_square_khat_and_the_verdict(scene):
    khat = xr.DataArray(np.full((12, 18), 0.6), dims=("y", "x"))
    khat[0, 0], khat[0, 1] = np.inf, np.nan
    post = Stub(scene, khat=khat, intervals="best effort", findings="One thing. Mend it.\nThe last word.")
    figure = plot.trust(post)
    chi_square, weights = (image for _, image in images(figure))
    np.testing.assert_allclose(chi_square.get_array(), 2.0)
    np.testing.assert_array_equal(np.ma.getmaskarray(weights.get_array()), khat.isnull())
    good_enough, useless = (weights.cmap(weights.norm(value)) for value in (0.6, weights.get_array()[0, 0]))
    assert good_enough == weights.cmap(1) and useless == weights.cmap(3)
    words = " ".join(figure.get_suptitle().split())
    assert words == "Best effort. The last word. 1 finding says what to mend: print them with post.findings()."
    labels = [[label.get_text() for label in axis.get_yticklabels(which="both")] for axis in figure.axes[2:]]
    assert {"0.7", "not to be trusted"} <= set(labels[1])
    low, high = stats.chi2.ppf((0.0005, 0.9995), 37) / 37
    assert labels[0][1].startswith(f"{low:.2f}, below") and labels[0][3].startswith(f"{high:.2f}, above")


def test_trust_shows_what_there_is(scene):
    khat = xr.DataArray(np.zeros((12, 18)), dims=("y", "x"))
    (axis, _), = images(plot.trust(Stub(scene)))
    assert "noise" in axis.get_title()
    (axis, _), = images(plot.trust(Stub(scene, khat=khat, residuals=False)))
    assert "weights" in axis.get_title()
    with pytest.raises(InputError, match="linear mixing"):
        plot.trust(Stub(scene, residuals=False))
    with pytest.raises(InputError, match="a posterior, got a Dataset"):
        plot.trust(Stub(scene).summary())


def test_coverage_draws_every_curve_and_its_endmembers():
    rng = np.random.default_rng(0)
    truth = rng.normal(size=(40, 3))
    curves = {name: coverage_curve(scale * rng.normal(size=(200, 40, 3)), truth)
              for name, scale in (("wide", 2.0), ("narrow", 0.5))}
    axis = plot.coverage(curves).axes[0]
    drawn = {line.get_label(): line for line in axis.lines if not line.get_label().startswith("_")}
    assert list(drawn) == ["as often as it says", "wide", "narrow", "one endmember each"]
    for name, curve in curves.items():
        np.testing.assert_allclose(drawn[name].get_ydata(), curve.overall)
        thin = [line for line in lines(axis, drawn[name].get_color()) if line is not drawn[name]]
        np.testing.assert_allclose([line.get_ydata() for line in thin], curve.per_endmember.transpose("endmember", "level"))
    assert axis.get_xlim() == axis.get_ylim()
    for wrong in ({}, {"a": curves["wide"].drop_vars("overall")}):
        with pytest.raises(InputError, match="coverage_curve"):
            plot.coverage(wrong)


class OnePixel:
    """A posterior of one pixel in use, at row 1, column 0."""

    def __init__(self, concentration):
        self.concentration = concentration
        self.scene = SimpleNamespace(shape=(2, 1, 9), mask=xr.DataArray([[False], [True]], dims=("y", "x")))

    def draws(self, n, *, y, x):
        assert (y, x) == (slice(1, 2), slice(0, 1))
        drawn = np.random.default_rng(0).dirichlet(self.concentration, size=(n, 1, 1))
        return xr.Dataset({"abundances": (("draw", "y", "x", "endmember"), drawn)},
                          coords={"endmember": [f"m{k}" for k in range(len(self.concentration))]})


def exact_of(concentration):
    return np.random.default_rng(1).dirichlet(concentration, size=400)


@pytest.mark.parametrize("concentration", [(200.0, 300.0, 500.0), (0.5, 0.5, 1.0), (5000.0, 1.0, 3000.0)])
def test_a_pixel_of_three_is_drawn_in_the_triangle_it_is_in(concentration):
    post = OnePixel(concentration)
    axis = plot.pixel(post, 1, 0, exact=exact_of(concentration), draws=300).axes[0]
    scatter, contours = axis.collections
    points, corners = scatter.get_offsets(), np.array([[0, 0], [1, 0], [0.5, np.sqrt(0.75)]])
    inside = np.linalg.solve(np.vstack([corners.T, np.ones(3)]), np.vstack([np.asarray(points).T, np.ones(300)]))
    assert len(points) == 300 and inside.min() > -1e-9
    # Read back along the sides: the first tick of a side is its least abundance, the last its largest.
    ticks = np.array([float(text.get_text()) for text in axis.texts if text.get_text()[0].isdigit()]).reshape(3, -1)
    read = ticks[:, 0] + inside.T * (ticks[:, -1] - ticks[:, 0])
    drawn = post.draws(300, y=slice(1, 2), x=slice(0, 1)).abundances.values.reshape(300, 3)
    np.testing.assert_allclose(read, drawn, atol=1e-6)
    assert len(contours.levels) == 2 and contours.levels[0] < contours.levels[1]
    assert [text.get_text().strip("→← ") for text in axis.texts if text.get_text()[0] in "m←"] == ["m0", "m1", "m2"]


@pytest.mark.parametrize("k", [2, 4])
def test_a_pixel_of_others_is_drawn_in_pairs(k):
    concentration = np.arange(1.0, k + 1)
    figure = plot.pixel(OnePixel(concentration), 1, 0, exact=exact_of(concentration), draws=100)
    drawn = OnePixel(concentration).draws(100, y=slice(1, 2), x=slice(0, 1)).abundances.values.reshape(100, k)
    for number, axis in enumerate(figure.axes):
        i, j = divmod(number, k)
        assert axis.axison == (i >= j)
        if i > j:
            np.testing.assert_allclose(axis.collections[0].get_offsets(), drawn[:, [j, i]])
            assert len(axis.collections) == 2  # the exact ones: contours, or points where two endmembers make a line
    names = [text.get_text() for text in figure.legends[0].get_texts()]
    assert names[0] == "posterior (100 draws)" and names[1].startswith("exact (400 draws")


def test_a_pixel_without_exact_draws_that_hardly_varies_is_drawn():
    figure = plot.pixel(OnePixel((1e9, 1e9, 1.0, 1.0)), 1, 0)
    figure.draw_without_rendering()
    assert len(figure.legends[0].get_texts()) == 1
    assert all(np.ptp(axis.get_xlim()) > 0.004 for axis in figure.axes if axis.axison)


def test_a_pixel_that_cannot_be_drawn_is_refused():
    post = OnePixel((1.0, 2.0, 3.0))
    for y, x in ((0, 0), (2, 0), (1, -1)):
        with pytest.raises(InputError, match="a pixel in use, of 2 rows and 1 columns"):
            plot.pixel(post, y, x)
    with pytest.raises(InputError, match=r"exact draws \(n, 3\), got shape \(5, 4\)"):
        plot.pixel(post, 1, 0, exact=np.ones((5, 4)))
    with pytest.raises(InputError, match="a posterior, got a list"):
        plot.pixel([], 1, 0)


def test_a_real_posterior_can_be_drawn(plain_fit, fit_scene):
    post = plain_fit.posterior(fit_scene)
    for figure in (plot.exceedance(post, 0.4), plot.confidence_maps(post), plot.trust(post), plot.pixel(post, 2, 3, draws=50)):
        figure.draw_without_rendering()
        assert isinstance(figure, Figure)


def test_maps_that_are_compared_share_one_scale(scene):
    summary = Stub(scene).summary()
    figure = plot.compare_maps({"mean": summary.abundance_mean, "half": 0.5 * summary.abundance_mean})
    panels = images(figure)
    top = float(summary.abundance_mean.max())
    assert len(panels) == 6 and all(image.get_clim() == (0.0, pytest.approx(top)) for _, image in panels)
    with pytest.raises(InputError, match="the same endmembers"):
        plot.compare_maps({"mean": summary.abundance_mean, "two": summary.abundance_mean[..., :2]})
    with pytest.raises(InputError, match="the same endmembers"):
        plot.compare_maps({})
