"""The part of the page to click on: what its scripts are given, in whole numbers of two bytes."""

from __future__ import annotations

import base64
import json
from html import escape
from importlib import resources
from string import Template

import numpy as np
import xarray as xr
from scipy import special

from pyro_unmix.plot.frame import colours, top_of
from pyro_unmix.plot.spectra import band_axis, gaps
from pyro_unmix.report.run import Run
from pyro_unmix.report.sections import thinning

_STEPS = 65534  # 65535 stands for what is masked
_COLOURS = {"mean": "viridis", "sd": "cividis", "exceedance": "magma"}  # as in the figures


def explorer(run: Run) -> str:
    """The HTML of this part; its scripts fill it."""
    page = resources.files("pyro_unmix.report").joinpath("explorer.html").read_text("utf-8")
    return Template(page).substitute(note=escape(" ".join([thinning(run), _spectra_kept(run)]).strip()))


def embedded(run: Run) -> dict:
    """What the scripts of the page read, as JSON can hold it; arrays are `packed`.

    `mean`, `sd` (endmember, y, x) and `quantiles` (quantile, endmember, y, x) of the pixels at `rows` and `columns`; `brightness`
    (y, x) or None; `endmembers` (endmember, band) in order of `wavelengths`, with a gap before each band in `gaps`; `spectra`:
    those of `pixels.nc`, `reflectance` and perhaps `reconstruction` (y, x, band) at `rows` and `columns` of their own, or None.
    """
    summary = run.summary
    bands, order = band_axis(summary.wavelength)
    quantiles = summary.abundance_quantile.transpose("quantile", "endmember", "y", "x")
    return {
        "names": [str(name) for name in summary.endmember.values],
        "rows": run.rows.tolist(), "columns": run.cols.tolist(), "shape": run.shape, "coordinates": _coordinates(run),
        "mean": packed(_maps(summary.abundance_mean), 0.0, 1.0), "sd": packed(_maps(summary.abundance_sd), 0.0, 1.0),
        "quantiles": packed(quantiles.values, 0.0, 1.0), "levels": quantiles["quantile"].values.tolist(),
        "scores": special.ndtri(quantiles["quantile"].values).tolist(),
        "brightness": packed(summary.brightness_mean.transpose("y", "x").values) if "brightness_mean" in summary else None,
        "linear": json.loads(summary.attrs.get("configuration", "{}")).get("mixing") == "Linear",
        "endmembers": packed(summary.endmember_mean.transpose("endmember", "wavelength").values[:, order]),
        "wavelengths": bands.tolist(), "gaps": gaps(bands).tolist(),
        "unit": "" if summary.wavelength.attrs.get("units", "nm") == "1" else summary.wavelength.attrs.get("units", "nm"),
        "spectra": _spectra(run.pixels, order),
        "top": {"mean": 1.0, "sd": top_of(summary.abundance_sd), "exceedance": 1.0},
        "colours": {what: _text(colours(name)(np.arange(256), bytes=True)[:, :3]) for what, name in _COLOURS.items()},
    }


def packed(values: np.ndarray, low: float | None = None, high: float | None = None) -> dict:
    """Numbers as unsigned ones of two bytes, little-endian, in base64: 0 is `low`, 65534 `high`, 65535 NaN or infinite.

    They are wrong by at most a 131,068th of the range, which is that of `values` where it is not given.
    """
    finite = np.isfinite(values)
    low = float(values[finite].min(initial=np.inf)) if low is None else low
    high = float(values[finite].max(initial=-np.inf)) if high is None else high
    if not low < high:  # one value, or none
        low, high = (low, low + 1.0) if low == high else (0.0, 1.0)
    steps = np.where(finite, np.clip((values.astype(np.float64) - low) / (high - low), 0.0, 1.0) * _STEPS, _STEPS + 1)
    return {"low": low, "high": high, "data": _text(np.rint(steps).astype("<u2"))}


def _text(array: np.ndarray) -> str:
    return base64.b64encode(np.ascontiguousarray(array).tobytes()).decode("ascii")


def _maps(values: xr.DataArray) -> np.ndarray:
    return values.transpose("endmember", "y", "x").values


def _spectra(pixels: xr.Dataset | None, order: np.ndarray) -> dict | None:
    if pixels is None:
        return None
    kept = {name: packed(values.transpose("y", "x", "wavelength").values[..., order])
            for name, values in pixels.data_vars.items()}
    return {"rows": pixels["row"].values.tolist(), "columns": pixels["column"].values.tolist(), **kept}


def _spectra_kept(run: Run) -> str:
    if run.pixels is None:
        return "The folder holds no observed spectra (no pixels.nc)."
    kept = run.pixels.sizes["y"], run.pixels.sizes["x"]
    return "" if kept == run.shape else f"Observed spectra are in the page for {kept[0]} × {kept[1]} of these pixels."


def _coordinates(run: Run) -> list[dict]:
    """Where pixels are, besides their row and column: along one dimension plain numbers, else packed (y, x)."""
    found: list[dict] = []
    counted = {"y": run.rows, "x": run.cols}
    for name, coord in run.summary.coords.items():
        if not coord.dims or not set(coord.dims) <= {"y", "x"} or coord.dtype.kind not in "iuf":
            continue
        about = {"name": str(name), "unit": str(coord.attrs.get("units", ""))}
        if coord.ndim == 2:
            found.append(about | {"maps": packed(coord.transpose("y", "x").values)})
        elif not np.array_equal(coord.values, counted[coord.dims[0]]):
            found.append(about | {"along": str(coord.dims[0]), "values": coord.values.astype(float).tolist()})
    return found
