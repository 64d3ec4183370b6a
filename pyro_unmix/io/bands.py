"""Which bands of a sensor's file a scene takes, and at what wavelengths."""

from __future__ import annotations

import re
from collections.abc import Sequence

import numpy as np

from pyro_unmix.errors import InputError
from pyro_unmix.io.library_files import Intervals, marked_bands

# Where water vapour lets almost no sunlight through, in nm: what a file holds there is noise, whether it marks it or not.
WATER_VAPOUR: Intervals = ((1340.0, 1460.0), (1790.0, 1960.0))

# Two files of one sensor give the centre of a band to within this, in nm.
_SAME = 1.0
_NANOMETRES = {"nanometers", "nanometer", "nanometres", "nanometre", "nm"}
_MICROMETRES = {"micrometers", "micrometer", "micrometres", "micrometre", "microns", "micron", "um", "µm", "μm"}
# No sensor has a band beyond 100 micrometres or below 100 nm.
_LARGEST_MICROMETRE = 100.0
_IN_A_NAME = re.compile(r"(\d+(?:\.\d+)?)\s*(nanomet(?:er|re)s?|nm|micromet(?:er|re)s?|microns?|um|[µμ]m)\b", re.IGNORECASE)


def nanometres(values: np.ndarray | None, unit: str) -> np.ndarray | None:
    """Wavelengths in nanometres; None where they are none, such as band numbers, or wavenumbers."""
    if values is None or not (np.isfinite(values).all() and (values > 0).all()):
        return None
    unit = unit.strip().lower()
    if unit in _MICROMETRES:
        return values * 1000.0
    if unit in _NANOMETRES:
        return values
    if unit in {"", "unknown"}:
        return values * 1000.0 if values.max() < _LARGEST_MICROMETRE else values
    return None


def described(names: Sequence[str | None]) -> np.ndarray | None:
    """Wavelengths in the names of bands, such as "band 1 (418.24 Nanometers)"; None where a name has none."""
    found = [_IN_A_NAME.search(name or "") for name in names]
    values = [nanometres(np.array([float(match[1])]), match[2]) for match in found if match]
    known = [value[0] for value in values if value is not None]
    return np.array(known) if len(known) == len(names) else None


def widths(values: np.ndarray | None, unit: str, wavelengths: np.ndarray | None) -> np.ndarray | None:
    """Full widths at half maximum in nanometres, of the same unit as wavelengths; None where the file does not know them."""
    if values is None or wavelengths is None or not (np.isfinite(values).all() and (values > 0).all()):
        return None
    if unit.strip().lower() in {"", "unknown"}:
        return values * 1000.0 if values.max() < 1.0 else values  # no band is narrower than a nanometre, nor as wide as 1000
    return nanometres(values, unit)


def kept_bands(bad: np.ndarray, wavelengths: np.ndarray | None, drop: Intervals) -> tuple[np.ndarray, list[str]]:
    """Numbers of the bands to read, from 0, and what to say of those left out.

    Parameters
    ----------
    bad
        `(bands,)`, True where the file marks a band as bad.
    wavelengths
        `(bands,)` in nm, or None.
    drop
        Intervals in nm, ends included. Of a file without wavelengths none are dropped.
    """
    n = len(bad)
    dropped = marked_bands(drop, n, wavelengths) & ~bad if wavelengths is not None else np.zeros(n, bool)
    notes = []
    if bad.any():
        notes.append(f"{bad.sum()} of {n} bands are marked as bad in the file and are left out{_where(bad, wavelengths)}")
    if dropped.any():
        intervals = ", ".join(f"{low:.0f} to {high:.0f}" for low, high in drop)
        notes.append(f"{dropped.sum()} of {n} bands are in {intervals} nm, where water vapour absorbs, and are left out; "
                     "drop=() or --keep-water keeps them" if drop is WATER_VAPOUR else
                     f"{dropped.sum()} of {n} bands are in {intervals} nm and are left out")
    kept = np.flatnonzero(~(bad | dropped))
    if len(kept) < 2:
        raise InputError("at least two bands to use", f"{n} bands, {bad.sum()} of them marked as bad, {dropped.sum()} dropped",
                         "keep more of them, or correct the file's list of bad bands")
    return kept, notes


def matching_bands(wanted: np.ndarray, wavelengths: np.ndarray | None) -> np.ndarray:
    """Numbers of the bands at the wavelengths `wanted` (nm), in their order.

    Raises
    ------
    InputError
        The file does not have them all, or does not know its wavelengths.
    """
    if wavelengths is None:
        raise InputError(f"a file that knows its wavelengths, to find {len(wanted)} bands in", "none",
                         "write them into the file")
    distance = np.abs(wavelengths - wanted[:, None])
    nearest = distance.argmin(axis=1)
    missing = distance[np.arange(len(wanted)), nearest] > _SAME
    if missing.any() or len(set(nearest)) < len(wanted):
        where = f"none within {_SAME:.0f} nm of {wanted[missing][0]:.1f} nm" if missing.any() else "one band for two of them"
        raise InputError(f"a scene of the {len(wanted)} bands the fit was made on",
                         f"a file of {len(wavelengths)} bands, {where}", "take a file of the same sensor")
    return nearest


def _where(marked: np.ndarray, wavelengths: np.ndarray | None) -> str:
    return "" if wavelengths is None else f" ({wavelengths[marked].min():.0f} to {wavelengths[marked].max():.0f} nm)"
