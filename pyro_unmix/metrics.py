"""How far a result is from a reference: angles, errors, and whether its intervals hold the truth.

Abundances mean something only relative to the amplitude of the endmembers (a reference may scale its endmembers to
maximum 1), so two sets of abundances are compared only after one is expressed for the other's amplitude, measured by
the L2 norm of the endmembers. Nothing here is tuned to a score.
"""

from __future__ import annotations

import dataclasses

import numpy as np
import xarray as xr
from scipy.optimize import linear_sum_assignment

from pyro_unmix.errors import InputError

# Outside of this a reference abundance counts as "not there" or "pure": an interval of a continuous posterior can never
# hold an exact 0 or 1, and many references are full of them.
INTERIOR = (0.02, 0.98)


def spectral_angle(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """Angle in radians between spectra along the last axis, `(..., bands)` against `(..., bands)` -> `(...)`.

    The measure of Kruse et al. (1993, Remote Sensing of Environment 44), in Kahan's form, which keeps its digits for
    small angles. A spectrum of zeros is at pi / 2 from every other.
    """
    u, v = (np.asarray(s, dtype=np.float64) for s in (a, b))
    u, v = (s / np.maximum(np.linalg.norm(s, axis=-1, keepdims=True), np.finfo(float).tiny) for s in (u, v))
    return 2.0 * np.arctan2(np.linalg.norm(u - v, axis=-1), np.linalg.norm(u + v, axis=-1))


def match(endmembers: np.ndarray, reference: np.ndarray) -> np.ndarray:
    """The order that pairs `endmembers` with `reference`, both `(k, bands)`.

    `endmembers[order][i]` belongs to `reference[i]`: the Hungarian assignment, of least total spectral angle.

    Raises
    ------
    InputError
        The two shapes differ.
    """
    endmembers, reference = np.asarray(endmembers), np.asarray(reference)
    if endmembers.ndim != 2 or endmembers.shape != reference.shape:
        raise InputError(f"endmembers of the reference's shape {reference.shape}", f"shape {endmembers.shape}",
                         "fit as many endmembers as the reference has, on the same bands")
    return _assign(spectral_angle(reference[:, None], endmembers[None]))


def rmse(abundances: np.ndarray, reference: np.ndarray) -> float:
    """Square root of the mean squared difference over all pixels and endmembers, NaN left out."""
    return float(np.sqrt(np.nanmean((np.asarray(abundances, float) - np.asarray(reference, float)) ** 2)))


def match_amplitude(abundances: np.ndarray, ratio: np.ndarray) -> np.ndarray:
    """Abundances `(..., k)` as they read for endmembers of another amplitude: proportional to `abundances * ratio`.

    `ratio` `(k,)` is the L2 norm of the own endmember over that of the wanted one. From
    `z_k M_k = (z_k r_k) (M_k / r_k)`, then divided by the sum, so that abundances still sum to one.

    Raises
    ------
    InputError
        A ratio that is not a positive number.
    """
    ratio = np.asarray(ratio, dtype=np.float64)
    if not (np.isfinite(ratio).all() and (ratio > 0).all()):
        raise InputError("positive amplitude ratios", str(ratio), "leave out an endmember that is zero")
    scaled = np.asarray(abundances, dtype=np.float64) * ratio
    total = scaled.sum(axis=-1, keepdims=True)
    return scaled / np.where(total > 0, total, np.nan)


def align_reference(summary: xr.Dataset, reference: xr.Dataset) -> tuple[xr.Dataset, np.ndarray, np.ndarray]:
    """The reference in the summary's amplitude, with the order and ratio that relate the two.

    Quantiles of one abundance cannot be renormalised (the sum they would be divided by differs from draw to draw), but
    the reference is a single vector and can: so it is the reference that moves.

    Returns
    -------
    aligned
        The reference's own endmembers in its own order and names, each scaled to the L2 norm of its partner, and its
        abundances for that amplitude.
    order, ratio
        Both `(k,)`: `summary.isel(endmember=order)` pairs with the reference; L2 norm of the summary's endmember over
        the reference's, ones where a side has no endmembers.

    Raises
    ------
    InputError
        A different number of endmembers, pixels or bands; wavelengths that differ; a reference that holds nothing.
    """
    _check(summary, reference)
    aligned = reference.copy()
    if "endmembers" in reference and "endmember_mean" in summary:
        own = summary.endmember_mean.transpose("endmember", "wavelength").values
        known = reference.endmembers.transpose("endmember", "wavelength").values
        order = match(own, known)
        ratio = _amplitude(own)[order] / _amplitude(known)
        aligned["endmembers"] = (("endmember", "wavelength"), known * ratio[:, None])
    elif "abundances" in reference:
        own, known = _maps(summary.abundance_mean), _maps(reference.abundances)
        order = _assign(np.nanmean((known[..., :, None] - own[..., None, :]) ** 2, axis=(0, 1)))
        ratio = np.ones(len(order))
    else:
        raise InputError("abundances or endmembers that both have", "neither", "check what the two files hold")
    if "abundances" in reference:
        aligned["abundances"] = (("y", "x", "endmember"), match_amplitude(_maps(reference.abundances), 1.0 / ratio))
    return aligned, order, ratio


@dataclasses.dataclass(frozen=True)
class Evaluation:
    """What `evaluate` found; a figure is None where the reference or the summary lacks what it needs.

    Dictionaries are keyed by the reference's names. `rmse`: the summary's mean abundances moved to the reference's
    amplitude; `rmse_unmatched`: left as they are. Angles `sad` in radians. `coverage_*`: share of reference values
    inside the central 90 or 50 % interval; `_interior`: of those between 0.02 and 0.98 only. `width_90`: mean width
    of the interval. `crps`: in abundance, lower is better.
    """

    pairing: dict[str, str]
    amplitude: str
    n_pixels: int
    rmse: float | None = None
    rmse_unmatched: float | None = None
    rmse_per_endmember: dict[str, float] | None = None
    sad: float | None = None
    sad_per_endmember: dict[str, float] | None = None
    coverage_90: float | None = None
    coverage_50: float | None = None
    coverage_90_interior: float | None = None
    coverage_90_per_endmember: dict[str, float] | None = None
    coverage_50_per_endmember: dict[str, float] | None = None
    width_90: float | None = None
    crps: float | None = None

    def to_dict(self) -> dict:
        """Plain numbers, strings and dictionaries, ready for JSON."""
        return dataclasses.asdict(self)

    def table(self) -> str:
        """The figures as plain text, one a line, then one line for each endmember."""
        lines = [f"pixels compared          {self.n_pixels}", f"amplitude matched by     {self.amplitude}"]
        for label, value in (("abundance RMSE", self.rmse), ("  without matching", self.rmse_unmatched),
                             ("spectral angle (rad)", self.sad), ("90 % interval covers", self.coverage_90),
                             ("  interior values", self.coverage_90_interior),
                             ("50 % interval covers", self.coverage_50), ("90 % interval width", self.width_90),
                             ("CRPS", self.crps)):
            lines.append(f"{label:<25}{_number(value)}")
        width = max(len("reference"), *map(len, self.pairing)) + 2
        other = max(len("paired with"), *map(len, self.pairing.values())) + 2
        lines += ["", f"{'reference':<{width}}{'paired with':<{other}}{'RMSE':>8}{'angle':>8}{'cover 90':>10}"]
        for name, own in self.pairing.items():
            rmse_k, sad_k, cover_k = (_number((figures or {}).get(name)) for figures in (
                self.rmse_per_endmember, self.sad_per_endmember, self.coverage_90_per_endmember))
            lines.append(f"{name:<{width}}{own:<{other}}{rmse_k:>8}{sad_k:>8}{cover_k:>10}")
        return "\n".join(lines)

    __str__ = table


def evaluate(summary: xr.Dataset, reference: xr.Dataset) -> Evaluation:
    """Compare a posterior summary with a reference.

    Pixels that are NaN on either side are left out. CRPS is the integral over levels of twice the pinball loss
    (Gneiting & Raftery 2007, JASA 102; Laio & Tamea 2007, HESS 11), here a sum over the quantiles the summary has, each
    weighted by the levels it is nearest to: exact for a point, 3 % low for a normal distribution.

    Parameters
    ----------
    summary
        What `posterior.summary()` returns and `summary.nc` holds.
    reference
        `abundances` (y, x, endmember) and/or `endmembers` (endmember, wavelength), as in `Scene.reference`. Endmembers
        are matched on spectral angle, or on their abundances where the reference has no spectra.

    Raises
    ------
    InputError
        A different number of endmembers, pixels or bands; wavelengths that differ; nothing to compare.
    """
    aligned, order, ratio = align_reference(summary, reference)
    names = [str(n) for n in reference.endmember.values]
    own = summary.isel(endmember=order)
    matched = "endmembers" in reference and "endmember_mean" in summary
    figures: dict = {"n_pixels": 0}
    if matched:
        angles = spectral_angle(own.endmember_mean.transpose("endmember", "wavelength"), aligned.endmembers)
        figures |= {"sad": float(angles.mean()), "sad_per_endmember": _named(names, angles)}
    if "abundances" in reference and "abundance_mean" in summary:
        mean, known, moved = _maps(own.abundance_mean), _maps(reference.abundances), _maps(aligned.abundances)
        use = np.isfinite(mean).all(-1) & np.isfinite(moved).all(-1)
        if not use.any():
            raise InputError("at least one pixel with abundances on both sides", "none", "check the masks of the two")
        mean, known, moved = mean[use], known[use], moved[use]
        here = match_amplitude(mean, ratio) if matched else mean
        figures |= {
            "n_pixels": int(use.sum()),
            "rmse": rmse(here, known),
            "rmse_unmatched": rmse(mean, known),
            "rmse_per_endmember": _named(names, np.sqrt(np.mean((here - known) ** 2, axis=0))),
        }
        if "abundance_quantile" in summary:
            figures |= _interval_figures(own.abundance_quantile, use, moved, known, names)
    pairing = dict(zip(names, (str(n) for n in own.endmember.values), strict=True))
    return Evaluation(pairing=pairing, amplitude="L2 norm" if matched else "nothing (no spectra to match)", **figures)


def _interval_figures(quantile: xr.DataArray, use: np.ndarray, moved: np.ndarray, known: np.ndarray, names) -> dict:
    """Coverage, width and CRPS of `(n_pixels, k)` reference values `moved` into the summary's amplitude."""
    levels = quantile["quantile"].values.astype(np.float64)
    values = quantile.transpose("quantile", "y", "x", "endmember").values[:, use].astype(np.float64)
    at = {level: values[np.abs(levels - level).argmin()] for level in (0.05, 0.25, 0.75, 0.95)
          if np.abs(levels - level).min() < 1e-3}
    if len(at) < 4:
        raise InputError("quantiles at 0.05, 0.25, 0.75 and 0.95", ", ".join(f"{level:g}" for level in levels))
    inside_90 = (at[0.05] <= moved) & (moved <= at[0.95])
    inside_50 = (at[0.25] <= moved) & (moved <= at[0.75])
    interior = (known >= INTERIOR[0]) & (known <= INTERIOR[1])
    edges = np.concatenate([[0.0], (levels[1:] + levels[:-1]) / 2, [1.0]])
    error, level = moved - values, levels[:, None, None]
    pinball = np.maximum(level * error, (level - 1) * error)
    return {
        "coverage_90": float(inside_90.mean()),
        "coverage_50": float(inside_50.mean()),
        "coverage_90_interior": float(inside_90[interior].mean()) if interior.any() else None,
        "coverage_90_per_endmember": _named(names, inside_90.mean(axis=0)),
        "coverage_50_per_endmember": _named(names, inside_50.mean(axis=0)),
        "width_90": float((at[0.95] - at[0.05]).mean()),
        "crps": float(2.0 * np.tensordot(np.diff(edges), pinball.mean(axis=(1, 2)), axes=1)),
    }


def _check(summary: xr.Dataset, reference: xr.Dataset) -> None:
    for dataset, what in ((summary, "summary"), (reference, "reference")):
        if "endmember" not in dataset.dims:
            raise InputError(f"a {what} with dimension 'endmember'", f"dimensions {tuple(dataset.sizes)}",
                             "give the summary first, then the reference")
    if summary.sizes["endmember"] != reference.sizes["endmember"]:
        raise InputError(f"{reference.sizes['endmember']} endmembers, as in the reference",
                         f"{summary.sizes['endmember']}", "fit with the reference's number of endmembers")
    if len(set(reference.endmember.values)) != reference.sizes["endmember"]:
        raise InputError("reference names that differ from each other", ", ".join(map(str, reference.endmember.values)))
    for dim in ("y", "x", "wavelength"):
        mine, theirs = summary.sizes.get(dim), reference.sizes.get(dim)
        if mine is not None and theirs is not None and mine != theirs:
            raise InputError(f"a reference of {mine} along '{dim}', as in the summary", f"{theirs}",
                             "resample the reference's spectra to the scene" if dim == "wavelength"
                             else "give the reference of the same part of the scene")
    bands = [d.wavelength for d in (summary, reference) if "wavelength" in d.coords and "wavelength" in d.dims]
    if len(bands) == 2 and all(b.attrs.get("units", "nm") == "nm" for b in bands):
        apart = float(np.abs(bands[0].values - bands[1].values).max())
        if apart > 1.0:
            raise InputError("a reference on the wavelengths of the summary", f"wavelengths up to {apart:.0f} nm off",
                             "resample the reference's spectra to the scene")


def _amplitude(endmembers: np.ndarray) -> np.ndarray:
    norm = np.linalg.norm(endmembers.astype(np.float64), axis=1)
    if not (norm > 0).all():
        raise InputError("endmembers with a positive L2 norm", f"norms {norm.round(4)}", "leave the zero endmember out")
    return norm


def _assign(cost: np.ndarray) -> np.ndarray:
    """Column of each row in the assignment of least total cost."""
    if not np.isfinite(cost).all():
        raise InputError("finite spectra and overlapping abundances", "NaN", "check the masks and the bad bands")
    return linear_sum_assignment(cost)[1]


def _maps(abundances: xr.DataArray) -> np.ndarray:
    return abundances.transpose("y", "x", "endmember").values.astype(np.float64)


def _named(names: list[str], values: np.ndarray) -> dict[str, float]:
    return {name: float(value) for name, value in zip(names, values, strict=True)}


def _number(value: float | None) -> str:
    return "-" if value is None else f"{value:.4f}"
