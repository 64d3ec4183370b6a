"""What value of a file stands for a reflectance of 1, where the file does not say."""

from __future__ import annotations

import numpy as np

# Scales are told by the maximum of a typical spectrum: in half a library or scene something reflects a twentieth of the light,
# and nothing five times the light that falls on it. Between these ranges, and beyond, a value could mean anything.
_PERCENT, _TEN_THOUSANDTHS = (5.0, 120.0), (500.0, 20_000.0)


def scale_by_size(brightest: np.ndarray) -> tuple[float, str]:
    """The scale told by the maxima of spectra, and what a warning should say of it: nothing where they are reflectance."""
    typical = float(np.median(brightest[brightest > 0])) if (brightest > 0).any() else 0.0
    said = f"a typical spectrum reaches {typical:.4g}"
    for name, (low, high), scale in (("percent", _PERCENT, 100.0), ("ten-thousandths", _TEN_THOUSANDTHS, 10_000.0)):
        if low < typical <= high:
            return scale, f"{said}: taken as {name} of reflectance and divided by {scale:.0f}"
    if typical > _PERCENT[0]:
        return 1.0, f"{said}, no known scale of reflectance: left as it is"
    return 1.0, ""
