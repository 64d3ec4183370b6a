"""Four figures of a result: abundance maps, endmembers, uncertainty, training loss. And one of a benchmark.

Each function returns the figure: save it with `figure.savefig(...)`. In a notebook it is shown once.
"""

from __future__ import annotations

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import xarray as xr
from matplotlib import colormaps
from matplotlib.figure import Figure
from matplotlib.ticker import LogLocator, NullLocator

from pyro_unmix.errors import InputError
from pyro_unmix.metrics import align_reference

_COLUMNS = 6  # maps side by side before they wrap
_INTERVAL = 1.645  # half-width of the central 90 % of a normal distribution, in sds
_GAP = 5.0  # a step between bands this many times the median one is a gap, not drawn across
_BLUE, _ORANGE = "#0072b2", "#d55e00"  # apart for colour-blind readers, and in print
# Colour and marker together tell many methods apart: of 6 and 9, no pair comes twice among 18.
_COLOURS, _MARKERS = (_BLUE, "#009e73", "#cc79a7", "#e69f00", "#56b4e9", "0.35"), "os^vPX<>p"


class _ShownOnce(Figure):
    """A pyplot figure that a notebook shows once, be it the value of a cell or one of several made in it."""

    def _ipython_display_(self) -> None:
        if "inline" in plt.get_backend():
            plt.close(self)  # the end of the cell shows all figures still open
        raise NotImplementedError  # tells IPython to display this one as usual


def abundance_maps(post, reference: xr.Dataset | None = None) -> Figure:
    """Maps of the abundances: posterior mean, standard deviation and, if given, the reference.

    Parameters
    ----------
    post
        A posterior, or its summary. Maps of one kind share one scale; masked pixels are grey.
    reference
        `Scene.reference`: matched to the endmembers by spectral angle and moved to their amplitude.

    Raises
    ------
    InputError
        No abundances in `post`, or a reference that does not fit to it.
    """
    summary = _summary(post, "abundance_mean", "abundance_sd")
    rows = [("mean\nabundance", summary.abundance_mean, "viridis", 1.0),
            ("standard\ndeviation", summary.abundance_sd, "cividis", _top(summary.abundance_sd))]
    names = [str(n) for n in summary.endmember.values]
    titles = [names, [""] * len(names)]
    if reference is not None:
        known, known_names = _in_order_of(summary, reference)
        if "abundances" not in known:
            raise InputError("a reference with abundances", ", ".join(map(str, known)), "leave the reference out")
        rows.append(("reference\nabundance", known.abundances, "viridis", 1.0))
        titles.append(known_names)

    n, across = len(names), min(len(names), _COLUMNS)
    blocks = -(-n // across)
    height, width = summary.sizes["y"], summary.sizes["x"]
    tall = float(np.clip(1.9 * height / width, 0.7, 3.2))
    size = (1.3 + 1.9 * across, blocks * (len(rows) * (tall + 0.15) + 0.6))
    figure, axes = _subplots(blocks * len(rows), across, size, layout="compressed")
    for block in range(blocks):
        for r, (label, maps, colours, top) in enumerate(rows):
            line = axes[block * len(rows) + r]
            maps = maps.transpose("y", "x", "endmember").values
            for k, axis in enumerate(line, start=block * across):
                if k >= n:
                    axis.set_axis_off()
                    continue
                image = axis.imshow(maps[..., k], cmap=_colours(colours), vmin=0.0, vmax=top)
                axis.set_title(titles[r][k], fontsize=9)
                axis.tick_params(labelleft=k % across == 0, labelbottom=r == len(rows) - 1, labelsize=8)
                if r == len(rows) - 1:
                    axis.set_xlabel("x (pixel)", fontsize=8)
            line[0].set_ylabel("y (pixel)", fontsize=8)
            bar = figure.colorbar(image, ax=list(line), extend="max" if top < 1.0 else "neither", aspect=12, pad=0.01)
            bar.set_label(label, fontsize=8)
            bar.ax.tick_params(labelsize=8)
            bar.ax.locator_params(nbins=4)
    return figure


def endmembers(post, reference: xr.Dataset | None = None) -> Figure:
    """One panel for each endmember: posterior mean, a 90 % ribbon, the other endmembers in grey, the reference dashed.

    Parameters and errors as in `abundance_maps`. Bands are drawn in order of wavelength; gaps stay open.
    """
    summary = _summary(post, "endmember_mean", "endmember_sd").transpose("endmember", "wavelength", ...)
    names = [str(n) for n in summary.endmember.values]
    band, order = _band_axis(summary.wavelength)
    mean, sd = (v.values[:, order] for v in (summary.endmember_mean, summary.endmember_sd))
    known = None
    if reference is not None:
        aligned, known_names = _in_order_of(summary, reference)
        if "endmembers" not in aligned:
            raise InputError("a reference with endmembers", ", ".join(map(str, aligned)), "leave the reference out")
        known = aligned.endmembers.transpose("endmember", "wavelength").values[:, order]

    across = min(len(names), 4)
    down = -(-len(names) // across)
    figure, axes = _subplots(down, across, (max(2.7 * across, 5.4) + 0.6, 2.3 * down + 0.9), sharex=True, sharey=True)
    for k, axis in enumerate(axes.flat):
        if k >= len(names):
            axis.set_axis_off()
            axes.flat[k - across].tick_params(labelbottom=True)
            continue
        others = _with_gaps(band, np.delete(mean, k, axis=0))
        axis.plot(others[0], others[1].T, color="0.85", lw=0.7, zorder=1, label="other endmembers")
        x, spectrum = _with_gaps(band, mean[k])
        _, spread = _with_gaps(band, _INTERVAL * sd[k])
        axis.fill_between(x, spectrum - spread, spectrum + spread, color=_BLUE, alpha=0.3, lw=0,
                          label=f"90 % interval (mean ± {_INTERVAL} sd)")
        axis.plot(x, spectrum, color=_BLUE, lw=1.4, label="posterior mean")
        title = names[k]
        if known is not None:
            axis.plot(*_with_gaps(band, known[k]), color=_ORANGE, lw=1.2, ls="--",
                      label="reference (matched by angle, same L2 norm)")
            title += f"\n(reference: {known_names[k]})" if known_names[k] != names[k] else ""
        axis.set_title(title, fontsize=9)
        axis.tick_params(labelsize=8)
        axis.margins(x=0.02)
    unit = summary.wavelength.attrs.get("units", "nm")
    figure.supxlabel("band number" if unit == "1" else f"wavelength ({unit})", fontsize=9)
    figure.supylabel("reflectance (units of the scene)", fontsize=9)
    handles, labels = axes.flat[0].get_legend_handles_labels()
    once = dict(zip(labels, handles, strict=True))  # each of the other endmembers brings the same label
    figure.legend(once.values(), once.keys(), loc="outside upper left", ncols=across, fontsize=8, frameon=False)
    return figure


def uncertainty(post) -> Figure:
    """Where to be careful: total standard deviation of the abundances, and what the mixture leaves unexplained.

    The total is the square root of the variances summed over endmembers; the right map is the RMSE over bands between
    a pixel and its reconstruction, in the units of the scene. `post` is a posterior or its summary.
    """
    summary = _summary(post, "abundance_sd", "reconstruction_rmse")
    total = np.sqrt((summary.abundance_sd**2).sum("endmember", skipna=False))
    height, width = summary.sizes["y"], summary.sizes["x"]
    tall = float(np.clip(3.3 * height / width, 1.4, 6.0))
    figure, axes = _subplots(1, 2, (9.0, tall + 0.8), layout="compressed")
    for axis, values, title, label in zip(
            axes.flat, (total, summary.reconstruction_rmse),
            ("Uncertainty of the abundances", "Left unexplained (units of the scene)"),
            ("total standard\ndeviation", "reconstruction\nRMSE"), strict=True):
        image = axis.imshow(values.transpose("y", "x"), cmap=_colours("cividis"), vmin=0.0, vmax=_top(values))
        axis.set_title(title, fontsize=10)
        axis.set_xlabel("x (pixel)")
        axis.set_ylabel("y (pixel)")
        figure.colorbar(image, ax=axis, label=label, extend="max", pad=0.02)
    return figure


def loss(history: pd.DataFrame) -> Figure:
    """Training loss by step, one panel for each stage: light every step, dark a running median.

    `history` has columns `step`, `elbo_loss` (negative ELBO for each pixel) and perhaps `stage`. The vertical scale
    leaves out the steepest first steps, and says so.

    Raises
    ------
    InputError
        A column is missing, or no loss is finite.
    """
    if missing := {"step", "elbo_loss"} - set(history.columns):
        raise InputError("a history with columns step and elbo_loss", f"no {' or '.join(sorted(missing))}")
    history = history[np.isfinite(history.elbo_loss)]
    if history.empty:
        raise InputError("a history with a finite loss", "none")
    stages = list(history.groupby("stage", sort=False)) if "stage" in history else [("", history)]
    figure, axes = _subplots(1, len(stages), (max(4.2 * len(stages), 6.5), 3.2))
    for axis, (stage, part) in zip(axes.flat, stages, strict=True):
        window = max(len(part) // 50, 1)
        smooth = part.elbo_loss.rolling(2 * window + 1, center=True, min_periods=1).median()
        axis.plot(part.step, part.elbo_loss, color=_BLUE, lw=0.6, alpha=0.35, label="every step")
        axis.plot(part.step, smooth, color=_BLUE, lw=1.6, label="running median")
        low, high = part.elbo_loss.min(), np.quantile(part.elbo_loss, 0.9)
        high += 0.5 * max(high - low, 1e-3 * abs(high), 1e-9)
        if (hidden := int((part.elbo_loss > high).sum())):
            axis.set_ylim(low - 0.05 * (high - low), high)
            axis.annotate(f"{hidden} steps lie above the frame", (0.5, 0.97), xycoords="axes fraction", ha="center",
                          va="top", fontsize=8, color="0.35")
        axis.set_title(str(stage).replace("_", " "), fontsize=10)
        axis.set_xlabel("step")
    axes.flat[0].set_ylabel("loss (negative ELBO per pixel)")
    axes.flat[-1].legend(fontsize=8, frameon=False, loc="center right")
    return figure


def benchmark(results: pd.DataFrame, ours: tuple[str, ...] = ("start", "pyro_unmix")) -> Figure:
    """Errors of methods on scenes: one line a scene, one point a seed, abundance RMSE left and spectral angle right.

    Parameters
    ----------
    results
        What `results.csv` of `pyro-unmix benchmark` holds. Hollow: methods that end in "/l2". Failed runs have no point.
    ours
        Methods to stand out, the last one most.

    Raises
    ------
    InputError
        A column is missing, or there is no result to draw.
    """
    if missing := {"scene", "kind", "method", "rmse", "sad"} - set(results.columns):
        raise InputError("results with columns scene, kind, method, rmse and sad", f"no {', '.join(sorted(missing))}")
    if not np.isfinite(results[["rmse", "sad"]].to_numpy(float)).any():
        raise InputError("results with at least one finite error", "none")
    scenes, methods = list(results.scene.unique()), list(results.method.unique())
    families = list(dict.fromkeys(method.split("/")[0] for method in methods if method not in ours))
    line = {scene: number for number, scene in enumerate(scenes)}
    by_kind = {str(kind): part.scene.map(line) for kind, part in results.drop_duplicates("scene").groupby("kind", sort=False)}
    figure, axes = _subplots(1, 2, (11.0, 1.9 + 0.4 * len(scenes)), sharey=True)
    for axis, column, label in zip(axes.flat, ("rmse", "sad"), ("abundance RMSE", "spectral angle (rad)"), strict=True):
        for number, method in enumerate(methods):
            part = results[results.method == method]
            y = part.scene.map(line) + 0.8 * ((number + 0.5) / len(methods) - 0.5)
            family = families.index(method.split("/")[0]) if method not in ours else 0
            colour = _ORANGE if method in ours else _COLOURS[family % len(_COLOURS)]
            hollow = method.endswith("/l2") or method in ours[:-1]
            axis.plot(part[column], y, ls="none", marker="D" if method in ours else _MARKERS[family % len(_MARKERS)],
                      ms=7 if method in ours else 5, mec=colour, mfc="none" if hollow else colour, mew=1.2,
                      zorder=3 if method in ours else 2, label=method)
        for number in range(0, len(scenes), 2):
            axis.axhspan(number - 0.5, number + 0.5, color="0.94", lw=0, zorder=0)
        for of_kind in by_kind.values():
            axis.axhline(of_kind.min() - 0.5, color="0.3", lw=1.0)
        axis.set_xscale("log")
        axis.xaxis.set_major_locator(LogLocator(subs=(1.0, 2.0, 5.0)))
        axis.xaxis.set_major_formatter("{x:g}")
        axis.xaxis.set_minor_locator(NullLocator())
        axis.grid(axis="x", color="0.85", lw=0.5)
        axis.set_axisbelow(True)
        axis.set_xlabel(f"{label}: less is better")
    axes.flat[0].set_yticks(range(len(scenes)), scenes)
    axes.flat[0].set_ylim(len(scenes) - 0.5, -0.5)
    for kind, of_kind in by_kind.items():
        axes.flat[1].annotate(kind, (1.02, of_kind.mean()), xycoords=("axes fraction", "data"), rotation=-90, va="center")
    handles, labels = axes.flat[0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside upper center", ncols=-(-len(labels) // 2), fontsize=8, frameon=False,
                  columnspacing=1.0, handletextpad=0.2, title="one point a seed; NAME/l2: pixels divided by their norm")
    return figure


def _summary(post, *needed: str) -> xr.Dataset:
    summary = post if isinstance(post, xr.Dataset) else post.summary() if hasattr(post, "summary") else None
    if summary is None:
        raise InputError("a posterior or its summary", f"a {type(post).__name__}", "give fit.posterior(scene)")
    if missing := [name for name in needed if name not in summary]:
        raise InputError(f"a summary with {', '.join(needed)}", f"no {', '.join(missing)}")
    return summary


def _in_order_of(summary: xr.Dataset, reference: xr.Dataset) -> tuple[xr.Dataset, list[str]]:
    """The reference in the summary's order and amplitude, and its names in that order."""
    aligned, order, _ = align_reference(summary, reference)
    aligned = aligned.isel(endmember=np.argsort(order))
    return aligned, [str(n) for n in aligned.endmember.values]


def _subplots(
    rows: int, columns: int, size: tuple[float, float], layout: str = "constrained", **shared
) -> tuple[Figure, np.ndarray]:
    return plt.subplots(rows, columns, figsize=size, squeeze=False, layout=layout, FigureClass=_ShownOnce, **shared)


def _top(values: xr.DataArray) -> float:
    """Upper end of a colour scale from 0 that a few stray pixels do not stretch."""
    return max(float(np.nanquantile(values, 0.995)), 1e-9)


def _colours(name: str):
    return colormaps[name].with_extremes(bad="0.8")


def _band_axis(wavelength: xr.DataArray) -> tuple[np.ndarray, np.ndarray]:
    """Wavelengths in rising order, and the order that makes them so."""
    order = np.argsort(wavelength.values, kind="stable")
    return wavelength.values[order].astype(float), order


def _with_gaps(band: np.ndarray, spectra: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The same, with a NaN set into each gap, so that lines and ribbons break there."""
    step = np.diff(band)
    gaps = np.flatnonzero(step > _GAP * np.median(step)) + 1
    return np.insert(band, gaps, np.nan), np.insert(spectra, gaps, np.nan, axis=-1)
