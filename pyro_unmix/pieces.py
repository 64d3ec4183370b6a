"""What is known of the pixels of one tile, from a guide or from draws, and of all tiles together."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from functools import cached_property
from typing import NamedTuple

import numpy as np
import torch
from pyro.distributions.torch_distribution import TorchDistributionMixin
from scipy import special
from torch import Tensor
from torch.distributions import Dirichlet

from pyro_unmix.distributions import Marginals, SimplexNormal, marginals, of_draws
from pyro_unmix.numerics import seeded

# For what a distribution does not say in closed form.
_DRAWS = 1000


def derived(seed: int, *keys: int) -> int:
    """A seed of its own for every choice of `keys`."""
    return int(np.random.SeedSequence((seed, *keys)).generate_state(1)[0])


class Common(NamedTuple):
    """Of what pixels share: endmembers and their standard deviation `(K, L)`, noise scale `(L,)`."""

    endmembers: Tensor
    endmember_sd: Tensor
    noise_scale: Tensor


class Drawn(NamedTuple):
    """Equally weighted draws of n pixels.

    Attributes
    ----------
    abundances, brightness
        `(n_draws, n, K)` and `(n_draws, n)`, or None where brightness is one.
    log_weights
        `(n_weights, n)`: of the draws that these were chosen from. None where all were alike.
    """

    abundances: Tensor
    brightness: Tensor | None
    log_weights: Tensor | None


class Piece:
    """Posterior of the pixels of a tile that are in use, `n` of them.

    Parameters
    ----------
    rows, cols
        `(n,)`: where the pixels stand in the scene.
    seed
        Of its random numbers: what is drawn does not depend on what was asked before.
    """

    def __init__(self, rows: np.ndarray, cols: np.ndarray, seed: int):
        self.rows, self.cols, self.seed = rows, cols, seed

    def marginals(self, levels: Sequence[float]) -> Marginals:
        """Mean, standard deviation and quantiles of each abundance by itself."""
        raise NotImplementedError

    def exceedance(self, threshold: float) -> Tensor:
        """P(abundance > threshold), `(n, K)`."""
        raise NotImplementedError

    def sample(self, n_draws: int) -> tuple[Tensor, Tensor | None]:
        """Abundances `(n_draws, n, K)` and brightness `(n_draws, n)`, or None where it is one."""
        raise NotImplementedError

    @property
    def brightness_mean(self) -> Tensor | None:
        """`(n,)`, or None where brightness is one."""
        raise NotImplementedError

    def khat(self) -> np.ndarray:
        """`(n,)`: tail index of the weights that draws were chosen by (`arviz.khat`)."""
        raise NotImplementedError


class GuidePiece(Piece):
    """As the guide has it: `q_abundances`, `q_brightness` of batch shape `(n,)`."""

    def __init__(self, rows: np.ndarray, cols: np.ndarray, seed: int, q_abundances: TorchDistributionMixin,
                 q_brightness: TorchDistributionMixin | None):
        super().__init__(rows, cols, seed)
        self.q_abundances, self.q_brightness = q_abundances, q_brightness

    def marginals(self, levels: Sequence[float]) -> Marginals:
        if isinstance(self.q_abundances, Dirichlet | SimplexNormal):  # nothing is drawn at random
            return marginals(self.q_abundances, levels)
        with seeded(self.seed):
            return marginals(self.q_abundances, levels)

    def exceedance(self, threshold: float) -> Tensor:
        if not isinstance(self.q_abundances, Dirichlet):
            return (self.sample(_DRAWS)[0] > threshold).double().mean(dim=0)
        a = self.q_abundances.concentration.double().numpy()
        return torch.as_tensor(special.betaincc(a, a.sum(axis=1, keepdims=True) - a, threshold))

    def sample(self, n_draws: int) -> tuple[Tensor, Tensor | None]:
        shape = torch.Size([n_draws])
        with seeded(self.seed):
            return self.q_abundances.sample(shape), None if self.q_brightness is None else self.q_brightness.sample(shape)

    @property
    def brightness_mean(self) -> Tensor | None:
        return None if self.q_brightness is None else self.q_brightness.mean


class DrawnPiece(Piece):
    """Known by draws: `draw` makes as many as it is told to, and `n_draws` of them answer for the posterior."""

    def __init__(self, rows: np.ndarray, cols: np.ndarray, seed: int, draw: Callable[[int], Drawn], n_draws: int):
        super().__init__(rows, cols, seed)
        self._draw, self._n_draws = draw, n_draws

    @cached_property
    def _pool(self) -> Drawn:
        with seeded(self.seed):
            return self._draw(self._n_draws)

    def marginals(self, levels: Sequence[float]) -> Marginals:
        return of_draws(self._pool.abundances, levels)

    def exceedance(self, threshold: float) -> Tensor:
        return (self._pool.abundances > threshold).double().mean(dim=0)

    def sample(self, n_draws: int) -> tuple[Tensor, Tensor | None]:
        with seeded(self.seed):
            return self._draw(n_draws)[:2]

    @property
    def brightness_mean(self) -> Tensor | None:
        return None if self._pool.brightness is None else self._pool.brightness.double().mean(dim=0)

    def khat(self) -> np.ndarray:
        from pyro_unmix.arviz import khat  # ArviZ takes seconds to import

        assert self._pool.log_weights is not None
        return khat(self._pool.log_weights.numpy())


class Maps(NamedTuple):
    """Of a whole scene, NaN where it is masked: `mean` and `sd` `(y, x, K)`, `quantiles` `(levels, y, x, K)`, and `brightness`
    and `khat` `(y, x)` where there are any."""

    mean: np.ndarray
    sd: np.ndarray
    quantiles: np.ndarray
    brightness: np.ndarray | None
    khat: np.ndarray | None

    def of_rows(self, rows: np.ndarray | slice) -> Maps:
        """Of some rows."""
        light, index = (None if values is None else values[rows] for values in (self.brightness, self.khat))
        return Maps(self.mean[rows], self.sd[rows], self.quantiles[:, rows], light, index)

    @classmethod
    def of(cls, pieces: Iterable[Piece], shape: tuple[int, int, int], levels: Sequence[float], *, brightness: bool,
           khat: bool) -> Maps:
        """From the pieces of a scene, `shape` `(y, x, K)`."""
        mean, sd = np.full((2, *shape), np.nan)
        quantiles = np.full((len(levels), *shape), np.nan)
        light, index = (np.full(shape[:2], np.nan) if wanted else None for wanted in (brightness, khat))
        for piece in pieces:
            where = piece.rows, piece.cols
            found = piece.marginals(levels)
            mean[where] = found.mean / found.mean.sum(-1, keepdim=True)
            sd[where] = found.sd
            quantiles[(slice(None), *where)] = found.quantiles
            if light is not None:
                light[where] = piece.brightness_mean
            if index is not None:
                index[where] = piece.khat()
        return cls(mean, sd, quantiles, light, index)
