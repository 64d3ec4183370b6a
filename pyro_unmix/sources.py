"""Where the pieces of a posterior come from: the guide as it is, or draws that make up for what it cannot say."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor

from pyro_unmix.numerics import seeded
from pyro_unmix.pieces import Common, Drawn, DrawnPiece, GuidePiece, Piece
from pyro_unmix.refine.shared import is_exact
from pyro_unmix.tiles import Tiles

if TYPE_CHECKING:
    from pyro_unmix.fit import Fit


class GuideSource:
    """The guide as it is: every tile in one forward pass.

    Attributes
    ----------
    tile, drawn_tile
        Rows and columns of the tiles that summaries and draws are made of.
    weighted
        Whether draws are chosen by weights, so that there is a k-hat.
    calibrated
        Whether the width of intervals was learned, or needs not be.
    learned
        Whether the scene has moved the endmembers.
    """

    tile, drawn_tile = 256, 32
    weighted = False

    def __init__(self, fit: Fit):
        self.fit = fit
        self.calibrated = fit.calibrated
        exact = fit.config.sampling_steps > 0 and bool(fit.guide.joint) and is_exact(fit.model)
        self.learned = exact or fit.shared is not None or fit.model.evidence > 0

    @torch.no_grad()
    def piece(self, tiles: Tiles, rows: np.ndarray, cols: np.ndarray, seed: int) -> Piece:
        """Of the pixels that count in `tiles`, at these rows and columns."""
        return GuidePiece(rows, cols, seed, *self.fit.guide.pixels(tiles))

    @torch.no_grad()
    def common(self) -> Common:
        endmembers = self.fit.guide.endmembers
        return Common(endmembers.loc(), endmembers.stddev, self.fit.guide.noise().mean)

    def shared(self, n_draws: int, seed: int) -> tuple[Tensor, Tensor]:
        """Endmembers `(n_draws, K, L)` and noise scales `(n_draws, L)` of as many draws."""
        with seeded(seed):
            return shared_by_guide(self.fit, n_draws)


class DrawnSource(GuideSource):
    """Draws, each given one of a few draws of what pixels share, `endmembers` `(S, K, L)` and `noise_scale` `(S, L)`.

    Draws that were made with the same endmembers stand next to each other, in every tile at the same place.
    """

    tile = drawn_tile = 32
    method: str
    # Whether draws of different pixels err together as the posterior says.
    joint = True

    def __init__(self, fit: Fit, endmembers: Tensor, noise_scale: Tensor, n_draws: int):
        super().__init__(fit)
        self.endmembers, self.noise_scale, self.n_draws = endmembers, noise_scale, n_draws

    def draw(self, tiles: Tiles, n_draws: int) -> Drawn:
        """Draws of the pixels that count, from torch's generator."""
        raise NotImplementedError

    def piece(self, tiles: Tiles, rows: np.ndarray, cols: np.ndarray, seed: int) -> Piece:
        return DrawnPiece(rows, cols, seed, lambda n_draws: self.draw(tiles, n_draws), self.n_draws)

    def common(self) -> Common:
        return Common(self.endmembers.mean(dim=0), self.endmembers.std(dim=0), self.noise_scale.mean(dim=0))

    def shared(self, n_draws: int, seed: int) -> tuple[Tensor, Tensor]:
        numbers = self._numbers(n_draws)
        return self.endmembers[numbers], self.noise_scale[numbers]

    def _numbers(self, n_draws: int) -> Tensor:
        """Which of the shared draws each of `n_draws` belongs to."""
        return torch.arange(n_draws) * len(self.endmembers) // n_draws

    def _shares(self, n_draws: int) -> Iterator[tuple[int, int]]:
        """Number of a shared draw, and how many of `n_draws` belong to it."""
        numbers, counts = self._numbers(n_draws).unique(return_counts=True)
        return zip(numbers.tolist(), counts.tolist(), strict=True)


@torch.no_grad()
def shared_by_guide(fit: Fit, n_draws: int) -> tuple[Tensor, Tensor]:
    """Endmembers `(n_draws, K, L)` and noise scales `(n_draws, L)` from the guide, by torch's generator."""
    return fit.guide.endmembers().sample(torch.Size([n_draws])), fit.guide.noise().sample(torch.Size([n_draws]))
