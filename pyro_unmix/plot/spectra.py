"""Spectra of the endmembers."""

from __future__ import annotations

import numpy as np
import xarray as xr
from matplotlib.figure import Figure

from pyro_unmix.errors import InputError
from pyro_unmix.plot.frame import BLUE, ORANGE, in_order_of, subplots, summary_of

_INTERVAL = 1.645  # half-width of the central 90 % of a normal distribution, in sds
_GAP = 5.0  # a step between bands this many times the median one is a gap, not drawn across


def endmembers(post, reference: xr.Dataset | None = None) -> Figure:
    """One panel for each endmember: posterior mean, a 90 % ribbon, the other endmembers in grey, the reference dashed.

    Parameters and errors as in `abundance_maps`. Bands are drawn in order of wavelength; gaps stay open.
    """
    summary = summary_of(post, "endmember_mean", "endmember_sd").transpose("endmember", "wavelength", ...)
    names = [str(n) for n in summary.endmember.values]
    band, order = band_axis(summary.wavelength)
    mean, sd = (v.values[:, order] for v in (summary.endmember_mean, summary.endmember_sd))
    known = None
    if reference is not None:
        aligned, known_names = in_order_of(summary, reference)
        if "endmembers" not in aligned:
            raise InputError("a reference with endmembers", ", ".join(map(str, aligned)), "leave the reference out")
        known = aligned.endmembers.transpose("endmember", "wavelength").values[:, order]

    across = min(len(names), 4)
    down = -(-len(names) // across)
    figure, axes = subplots(down, across, (max(2.7 * across, 5.4) + 0.6, 2.3 * down + 0.9), sharex=True, sharey=True)
    for k, axis in enumerate(axes.flat):
        if k >= len(names):
            axis.set_axis_off()
            axes.flat[k - across].tick_params(labelbottom=True)
            continue
        others = _with_gaps(band, np.delete(mean, k, axis=0))
        axis.plot(others[0], others[1].T, color="0.85", lw=0.7, zorder=1, label="other endmembers")
        x, spectrum = _with_gaps(band, mean[k])
        _, spread = _with_gaps(band, _INTERVAL * sd[k])
        axis.fill_between(x, spectrum - spread, spectrum + spread, color=BLUE, alpha=0.3, lw=0,
                          label=f"90 % interval (mean ± {_INTERVAL} sd)")
        axis.plot(x, spectrum, color=BLUE, lw=1.4, label="posterior mean")
        title = names[k]
        if known is not None:
            axis.plot(*_with_gaps(band, known[k]), color=ORANGE, lw=1.2, ls="--",
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


def band_axis(wavelength: xr.DataArray) -> tuple[np.ndarray, np.ndarray]:
    """Wavelengths in rising order, and the order that makes them so."""
    order = np.argsort(wavelength.values, kind="stable")
    return wavelength.values[order].astype(float), order


def gaps(band: np.ndarray) -> np.ndarray:
    """Positions of the bands, in rising order, that come after a gap."""
    step = np.diff(band)
    return np.flatnonzero(step > _GAP * np.median(step)) + 1


def _with_gaps(band: np.ndarray, spectra: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The same, with a NaN set into each gap, so that lines and ribbons break there."""
    after = gaps(band)
    return np.insert(band, after, np.nan), np.insert(spectra, after, np.nan, axis=-1)
