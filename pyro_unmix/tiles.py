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
        Held as one padded float32 tensor on `device`.
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
        use = scene.mask.values
        image = np.where(use[..., None], scene.reflectance.values, 0.0).astype(np.float32)
        below, right = max(first + down * self.height - n_rows, 0), across * self.width - cols
        pad = ((self.halo, self.halo + below), (self.halo, self.halo + right))
        self.image = torch.from_numpy(np.pad(image, (*pad, (0, 0)))).to(device)
        self.use = torch.from_numpy(np.pad(use, pad)).to(device)
        self.labels = self.labelled = None
        if labels is not None:
            known = use & np.isfinite(labels).all(axis=-1)
            filled = np.where(known[..., None], np.maximum(labels, _LEAST_LABEL), 1.0)
            filled = (filled / filled.sum(axis=-1, keepdims=True)).astype(np.float32)
            padded = np.pad(filled, (*pad, (0, 0)), constant_values=1.0 / labels.shape[-1])
            self.labels = torch.from_numpy(padded).movedim(-1, 0).contiguous().to(device)
            self.labelled = torch.from_numpy(np.pad(known, pad)).to(device)
        corners = [(first + i * self.height, j * self.width) for i in range(down) for j in range(across)]
        self.corners = [(i, j) for i, j in corners if use[i : i + self.height, j : j + self.width].any()]

    def __len__(self) -> int:
        return len(self.corners)

    def batch(self, indices: list[int]) -> Tiles:
        """The tiles of these numbers as one batch."""
        windows = [(slice(i, i + self.height + 2 * self.halo), slice(j, j + self.width + 2 * self.halo))
                   for i, j in (self.corners[n] for n in indices)]
        valid = torch.stack([self.use[window] for window in windows])
        inside = torch.zeros_like(valid[0])
        inside[self.halo : self.halo + self.height, self.halo : self.halo + self.width] = True
        # In memory band next to band, as a spectrum is: what is done with spectra, which is most, is done several times as fast.
        reflectance = torch.stack([self.image[window] for window in windows])
        tiles = Tiles(reflectance.movedim(-1, 1), valid, valid & inside, scale=len(self) / len(indices))
        if self.labels is None or self.labelled is None:
            return tiles
        return replace(tiles, labels=torch.stack([self.labels[(slice(None), *window)] for window in windows]),
                       labelled=torch.stack([self.labelled[window] for window in windows]))

    def rows_and_columns(self, tiles: Tiles, indices: list[int]) -> tuple[Tensor, Tensor]:
        """Row and column in the scene of every pixel that counts in `tiles = batch(indices)`."""
        number, i, j = torch.nonzero(tiles.core, as_tuple=True)
        corner = torch.tensor([self.corners[n] for n in indices], device=number.device)[number] - self.halo
        return corner[:, 0] + i, corner[:, 1] + j


def whole(scene: Scene, device: torch.device | str = "cpu") -> Tiles:
    """The scene as one tile: the batch to call a model or a guide with by hand."""
    return Tiling(scene, device=device).batch([0])
