"""Square pieces of a scene, with as much context around them as a guide needs."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

import numpy as np
import torch
from torch import Tensor

from pyro_unmix.errors import InputError
from pyro_unmix.scene import Scene

# Labels have exact zeros, where a density may have a pole.
_LEAST_LABEL = 1e-4


@dataclass(frozen=True)
class Tiles:
    """A batch of tiles: what model and guide are called with.

    Attributes
    ----------
    reflectance
        `(batch, n_bands, height, width)`, zero where not valid.
    valid
        `(batch, height, width)`: True where there is data, context included.
    core
        `(batch, height, width)`: True where the pixel counts in this batch.
    scale
        Tiles of the scene over tiles of the batch. Multiplied with a sum over the batch it gives an unbiased estimate of the sum
        over the scene. Pixels over pixels would not: tiles hold different numbers of them.
    kl_weight
        Weight of the divergence of pixel latents from their priors; below one during warm-up.
    labels
        `(batch, n_endmembers, height, width)`: abundances that are known, and any of the simplex elsewhere. None: no pixel's are.
    labelled
        `(batch, height, width)`: True where they are known.
    """

    reflectance: Tensor
    valid: Tensor
    core: Tensor
    scale: float = 1.0
    kl_weight: float = 1.0
    labels: Tensor | None = None
    labelled: Tensor | None = None

    def pixels(self) -> Tensor:
        """The pixels that count, `(n_pixels, n_bands)`."""
        return self.select(self.reflectance)

    def select(self, maps: Tensor) -> Tensor:
        """Rows `(n_pixels, channels)` of `maps` `(batch, channels, height, width)` at the pixels that count."""
        return maps.movedim(1, -1)[self.core]

    def known(self) -> tuple[Tensor, Tensor] | tuple[None, None]:
        """Abundances `(n_pixels, n_endmembers)` of the pixels that count, and whether they are known `(n_pixels,)`."""
        if self.labels is None or self.labelled is None:
            return None, None
        return self.select(self.labels), self.labelled[self.core]

    def weighted(self, kl_weight: float) -> Tiles:
        return replace(self, kl_weight=kl_weight)


class Tiling:
    """A scene cut into tiles that cover it once.

    Parameters
    ----------
    scene
        Held as one float32 tensor on `device`; on a processor it is the scene's own where no pixel is masked.
    size
        Rows and columns of a tile without its context. None: one tile, the scene.
    halo
        Pixels of context on every side. Half the receptive field of the guide makes tiles exact.
    labels
        `(y, x, n_endmembers)`, NaN where they are not known: `check_labels`. Taken as 1e-4 or more.
    rows
        Rows that the tiles cover; the others are their context. None: all.

    Raises
    ------
    InputError
        A size below 1 or a halo below 0.
    """

    def __init__(self, scene: Scene, size: int | None = None, halo: int = 0, device: torch.device | str = "cpu",
                 labels: np.ndarray | None = None, rows: slice | None = None):
        if (size is not None and size < 1) or halo < 0:
            raise InputError("tiles of size 1 or more and a halo of 0 or more", f"size {size}, halo {halo}")
        n_rows, cols, _ = scene.shape
        first, last = (0, n_rows) if rows is None else (rows.start, rows.stop)
        self.height, self.width = (last - first, cols) if size is None else (min(size, last - first), min(size, cols))
        self.halo = halo if size is not None else 0
        down, across = math.ceil((last - first) / self.height), math.ceil(cols / self.width)
        use, image = scene.mask.values, scene.reflectance.values
        if not use.all():
            image = np.where(use[..., None], image, np.float32(0.0))
        self.image, self.use = (torch.from_numpy(np.require(each, requirements=["C", "W"])).to(device) for each in (image, use))
        self.labels = self.labelled = None
        if labels is not None:
            known = use & np.isfinite(labels).all(axis=-1)
            filled = np.where(known[..., None], np.maximum(labels, _LEAST_LABEL), 1.0)
            filled = (filled / filled.sum(axis=-1, keepdims=True)).astype(np.float32)
            self.labels, self.labelled = (torch.from_numpy(each).to(device) for each in (filled, known))
        corners = [(first + i * self.height, j * self.width) for i in range(down) for j in range(across)]
        self.corners = [(i, j) for i, j in corners if use[i : i + self.height, j : j + self.width].any()]

    def __len__(self) -> int:
        return len(self.corners)

    def batch(self, indices: list[int]) -> Tiles:
        """The tiles of these numbers as one batch."""
        valid = self._cut(self.use, indices)
        inside = torch.zeros_like(valid[0])
        inside[self.halo : self.halo + self.height, self.halo : self.halo + self.width] = True
        # In memory band lies next to band, as in a spectrum: most of what is done is done with spectra.
        tiles = Tiles(self._cut(self.image, indices).movedim(-1, 1), valid, valid & inside, scale=len(self) / len(indices))
        if self.labels is None or self.labelled is None:
            return tiles
        labels = self._cut(self.labels, indices, 1.0 / self.labels.shape[-1])
        return replace(tiles, labels=labels.movedim(-1, 1), labelled=self._cut(self.labelled, indices))

    def _cut(self, maps: Tensor, indices: list[int], beyond: float = 0) -> Tensor:
        """`(batch, height, width, ...)` of `maps` `(y, x, ...)`: tiles with their context, and this value beyond the scene."""
        height, width = self.height + 2 * self.halo, self.width + 2 * self.halo
        tiles = maps.new_full((len(indices), height, width, *maps.shape[2:]), beyond)
        for tile, (i, j) in zip(tiles, (self.corners[n] for n in indices), strict=True):
            top, left = i - self.halo, j - self.halo
            found = maps[max(top, 0) : top + height, max(left, 0) : left + width]
            tile[max(-top, 0) :, max(-left, 0) :][: len(found), : found.shape[1]] = found
        return tiles

    def rows_and_columns(self, tiles: Tiles, indices: list[int]) -> tuple[Tensor, Tensor]:
        """Row and column in the scene of every pixel that counts in `tiles = batch(indices)`."""
        number, i, j = torch.nonzero(tiles.core, as_tuple=True)
        corner = torch.tensor([self.corners[n] for n in indices], device=number.device)[number] - self.halo
        return corner[:, 0] + i, corner[:, 1] + j


def whole(scene: Scene, device: torch.device | str = "cpu") -> Tiles:
    """The scene as one tile: the batch to call a model or a guide with by hand."""
    return Tiling(scene, device=device).batch([0])
