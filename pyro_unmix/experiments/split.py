"""Which pixels are labelled, and which are scored: apart by more than a guide looks."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import xarray as xr

from pyro_unmix.errors import InputError

# Every material must have a labelled pixel with so much of it: labels have to tell the endmembers apart.
LEAST_PURITY = 0.3


@dataclass(frozen=True)
class Split:
    """The third of a scene at one `side` is labelled, `gap` rows or columns beside it are left out, all the rest is scored.

    `labelled` and `test` are rows and columns. `str()` says it in words.
    """

    side: str
    gap: int
    labelled: tuple[slice, slice]
    test: tuple[slice, slice]

    def labels(self, abundances: xr.DataArray) -> np.ndarray:
        """Abundances `(y, x, endmember)`, NaN where no pixel is labelled: the `labels` of `fit`."""
        values = abundances.transpose("y", "x", "endmember").values
        labels = np.full(values.shape, np.nan)
        labels[self.labelled] = values[self.labelled]
        return labels

    def __str__(self) -> str:
        axis = 1 if self.side in ("left", "right") else 0
        across = ("rows", "columns")[axis]
        labelled, test = (f"{across} {part[axis].start} to {part[axis].stop - 1}" for part in (self.labelled, self.test))
        return f"{labelled} ({self.side} third) labelled, {self.gap} left out, {test} scored"


def split(abundances: xr.DataArray, gap: int) -> Split:
    """The first of the left, right, top and bottom third in which every material has a pixel of at least 0.3.

    Parameters
    ----------
    abundances
        Of the reference, `(y, x, endmember)`.
    gap
        Rows or columns between labelled and scored pixels: as far as a guide looks.

    Raises
    ------
    InputError
        There is no such third, or nothing is left to be scored.
    """
    values = abundances.transpose("y", "x", "endmember").values
    everything = slice(0, values.shape[0]), slice(0, values.shape[1])
    for side, axis in (("left", 1), ("right", 1), ("top", 0), ("bottom", 0)):
        size, third = values.shape[axis], values.shape[axis] // 3
        at_first = slice(0, third), slice(third + gap, size)
        at_last = slice(size - third, size), slice(0, size - third - gap)
        labelled, test = ((everything[0], along) if axis else (along, everything[1])
                          for along in (at_first if side in ("left", "top") else at_last))
        if 0 < third < size - gap and np.nanmax(values[labelled], axis=(0, 1)).min() >= LEAST_PURITY:
            return Split(side, gap, labelled, test)
    raise InputError(f"a third of the scene in which every material has a pixel of at least {LEAST_PURITY:g}, and more than "
                     f"{gap} rows or columns beside it", f"{values.shape[0]} x {values.shape[1]} pixels without")
