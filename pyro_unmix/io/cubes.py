"""A sensor's image before its numbers are read, whatever the format.

A sensor's format is a module with `open_cube(path)`, a context in which the file can be read; the numbers come row by row, so
that no more of them is held than is asked for.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from pyro_unmix.errors import InputError

# Values read at once, but at least one block of rows.
_AT_ONCE = 2**23


@dataclass(frozen=True)
class Cube:
    """A sensor's image before its numbers are read.

    Attributes
    ----------
    shape
        `(rows, columns, bands)`.
    read
        `read(rows, bands)`: values `(rows, columns, bands)` of a slice of rows and of these band numbers, by the scale that the
        file states, NaN where there is no data.
    bad
        `(bands,)`, True where the file marks a band as bad.
    wavelengths, fwhm
        `(bands,)` in nanometres, or None.
    scaled
        Whether the file states what its values are.
    coords
        Coordinates along `y` and `x`, and the reference system as `spatial_ref`.
    block
        Rows that are read fastest together.
    """

    shape: tuple[int, int, int]
    read: Callable[[slice, np.ndarray], np.ndarray]
    bad: np.ndarray
    wavelengths: np.ndarray | None = None
    fwhm: np.ndarray | None = None
    scaled: bool = False
    coords: dict = field(default_factory=dict)
    block: int = 1


@contextmanager
def readable(path: Path, what: str) -> Iterator[None]:
    """Whatever goes wrong in a reader becomes one `InputError`: damaged bytes lead libraries anywhere."""
    try:
        yield
    except (InputError, Warning):
        raise
    except Exception as error:
        reason = (str(error).splitlines() or [""])[0][:200] or type(error).__name__
        raise InputError(what, f"'{path.name}', which cannot be read as one ({reason})",
                         "it may be cut short or damaged: copy or download it again") from error


def row_blocks(rows: int, values_a_row: int, block: int = 1) -> Iterator[slice]:
    """Slices of rows, as many as are read or written at once."""
    step = max(_AT_ONCE // max(values_a_row, 1) // block, 1) * block
    return (slice(start, min(start + step, rows)) for start in range(0, rows, step))


def spread_blocks(cube: Cube, n_bands: int, values: int) -> list[slice]:
    """Blocks of rows spread evenly over a cube, so many that of `n_bands` bands about `values` values are read; or all."""
    rows, cols, _ = cube.shape
    starts = np.arange(0, rows, cube.block)
    wanted = max(values // (cube.block * cols * n_bands), 1)
    if wanted < len(starts):
        starts = starts[np.linspace(0, len(starts) - 1, wanted).astype(int)]
    return [slice(start, min(start + cube.block, rows)) for start in starts.tolist()]


def read_rows(cube: Cube, rows: slice, bands: np.ndarray) -> np.ndarray:
    """Values `(rows, columns, bands)` of a part of a cube."""
    n_rows, cols = rows.stop - rows.start, cube.shape[1]
    image = np.empty((n_rows, cols, len(bands)), np.float32)
    for block in row_blocks(n_rows, cols * len(bands), cube.block):
        with np.errstate(over="ignore"):  # beyond the range of float32 is infinite, and masked
            image[block] = cube.read(slice(rows.start + block.start, rows.start + block.stop), bands)
    return image


def with_data(image: np.ndarray) -> np.ndarray:
    """`(rows, columns)`: True where a pixel of `image` `(rows, columns, bands)` has more than gaps and zeros."""
    with np.errstate(invalid="ignore"):
        lowest, highest = image.min(axis=2), image.max(axis=2)
    found = (lowest != 0) | (highest != 0)
    broken = ~(np.isfinite(lowest) & np.isfinite(highest))
    found[broken] = (np.isfinite(image[broken]) & (image[broken] != 0)).any(axis=1)
    return found
