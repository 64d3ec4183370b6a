"""What the figures show is what the summary holds."""

from __future__ import annotations

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import pytest
import xarray as xr
from matplotlib.figure import Figure

from pyro_unmix import plot, simulate
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
