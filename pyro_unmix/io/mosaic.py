"""A part of a file that is larger than memory, to learn from: tiles spread over it, and those with its extreme pixels."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from pyro_unmix.errors import InputError
from pyro_unmix.scene import Scene

if TYPE_CHECKING:
    from pyro_unmix.io.scene_file import SceneFile

# Rows and columns of a tile, and masked ones between two: as wide as the guides here look, so that tiles which are no neighbours
# in the scene do not see each other. Together they are as large as the tiles of training are by default.
_TILE, _APART = 40, 8
# Directions along which pixels are compared, in so many principal components.
_DIRECTIONS, _COMPONENTS = 256, 12


class _Tile(NamedTuple):
    """Rows from `top` to before `bottom`, columns from `left` to before `right`."""

    top: int
    bottom: int
    left: int
    right: int


def mosaic(file: SceneFile, n_pixels: int, seed: int) -> Scene:
    """About `n_pixels` pixels of a file: `SceneFile.sample`."""
    rows, cols, n_bands = file.shape
    height, width = (length // len(_parts(length)) for length in (rows, cols))
    if n_pixels < height * width:
        raise InputError(f"at least {height * width} pixels, those of a tile", f"{n_pixels}")
    if rows * cols <= n_pixels:
        return file.whole()
    chosen = sorted(_chosen(file, n_pixels // (height * width), np.random.default_rng(seed)))
    across = int(np.ceil(len(chosen) ** 0.5))
    pitch = min(_TILE, rows) + _APART, min(_TILE, cols) + _APART
    image = np.zeros((-(-len(chosen) // across) * pitch[0] - _APART, across * pitch[1] - _APART, n_bands), np.float32)
    use = np.zeros(image.shape[:2], bool)
    for number, (values, there) in enumerate(_cut(file, chosen)):
        row, col = number // across * pitch[0], number % across * pitch[1]
        here = slice(row, row + len(there)), slice(col, col + there.shape[1])
        image[here], use[here] = values, there
    return Scene(image, mask=use, wavelengths=file.wavelengths, fwhm=file.fwhm, name=file.name)


def _parts(length: int) -> list[tuple[int, int]]:
    """From where to where tiles lie along rows or columns: about as long as each other, and no longer than `_TILE`."""
    edges = np.linspace(0, length, -(-length // _TILE) + 1).astype(int).tolist()
    return list(zip(edges, edges[1:], strict=False))


def _chosen(file: SceneFile, n_tiles: int, random: np.random.Generator) -> list[_Tile]:
    """Tiles with data: half of them, or fewer, hold the most extreme pixels, the others are spread evenly."""
    axes = _axes(file, random)
    farthest: list[tuple[float, _Tile | None]] = [(-np.inf, None)] * (2 * _DIRECTIONS * len(axes))
    won: dict[_Tile, int] = {}
    for rows in _parts(file.shape[0]):
        image, use = file.usable(slice(*rows))
        along = np.concatenate([_along(image, use, each) for each in axes], axis=2)
        for left, right in _parts(file.shape[1]):
            there = use[:, left:right]
            if not there.any():
                continue
            tile, here = _Tile(*rows, left, right), along[:, left:right][there]
            won[tile] = 0
            for number, value in enumerate(np.concatenate([here.max(axis=0), -here.min(axis=0)]).tolist()):
                if value > farthest[number][0]:
                    farthest[number] = value, tile
    if not won:
        raise InputError("at least one pixel with data", f"none in '{file.path.name}'", "check the file's no-data value")
    for _, winner in farthest:
        if winner is not None:
            won[winner] += 1
    extreme = sorted((tile for tile in won if won[tile]), key=lambda tile: -won[tile])[: max(n_tiles // 2, 1)]
    others = [tile for tile in won if tile not in set(extreme)]
    wanted = min(n_tiles - len(extreme), len(others))
    # One of each part of the scene.
    parts = np.array_split(np.arange(len(others)), wanted) if wanted else []
    return extreme + [others[int(random.choice(part))] for part in parts]


class _Axes(NamedTuple):
    """Of spectra as they are, or of their `shapes`, which have extremes of their own: the mean `(L,)`, principal components
    `(L, n)` in which they vary by one, and directions `(n, _DIRECTIONS)` along these."""

    mean: np.ndarray
    components: np.ndarray
    directions: np.ndarray
    shapes: bool


def _axes(file: SceneFile, random: np.random.Generator) -> list[_Axes]:
    spectra, axes = file.spread_spectra(), []
    for shapes in (False, True):
        pixels = _shape(spectra) if shapes else spectra
        mean = pixels.mean(axis=0, dtype=np.float64)
        values, vectors = np.linalg.eigh(np.cov(pixels.T, dtype=np.float64))
        components = vectors[:, ::-1][:, :_COMPONENTS] / np.sqrt(np.maximum(values[::-1][:_COMPONENTS], 1e-30))
        directions = random.standard_normal((components.shape[1], _DIRECTIONS))
        axes.append(_Axes(mean.astype(np.float32), components.astype(np.float32), directions.astype(np.float32), shapes))
    return axes


def _shape(spectra: np.ndarray) -> np.ndarray:
    return spectra / np.maximum(np.linalg.norm(spectra, axis=-1, keepdims=True), 1e-12)


def _along(image: np.ndarray, use: np.ndarray, axes: _Axes) -> np.ndarray:
    """`(rows, columns, _DIRECTIONS)`: how far out pixels lie along each direction.

    The largest and the least are what the pixel purity index counts (Boardman, Kruse and Green 1995, Summaries of the Fifth JPL
    Airborne Earth Science Workshop 1); of means of nine neighbours, so that a single wrong reading is no extreme.
    """
    pixels = np.where(use[..., None], image, np.float32(0.0))
    scores = (((_shape(pixels) if axes.shapes else pixels) - axes.mean) @ axes.components) * use[..., None]
    return (_near(scores) / np.maximum(_near(use[..., None].astype(np.float32)), 1.0)) @ axes.directions


def _near(maps: np.ndarray) -> np.ndarray:
    """Sums over the nine pixels around each."""
    padded = np.pad(maps, ((1, 1), (1, 1), (0, 0)))
    rows = padded[:-2] + padded[1:-1] + padded[2:]
    return rows[:, :-2] + rows[:, 1:-1] + rows[:, 2:]


def _cut(file: SceneFile, tiles: list[_Tile]) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Values and which pixels are in use of each of these tiles, row by row."""
    for rows, of_them in itertools.groupby(tiles, key=lambda tile: tile[:2]):
        image, use = file.usable(slice(*rows))
        yield from ((image[:, tile.left : tile.right], use[:, tile.left : tile.right]) for tile in of_them)
