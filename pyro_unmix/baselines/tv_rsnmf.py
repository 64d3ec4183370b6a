"""Matrix factorisation with abundance maps that are sparse and piecewise smooth."""

from __future__ import annotations

import numpy as np
import torch

from pyro_unmix.baselines.estimate import Estimate
from pyro_unmix.baselines.fcls import fcls
from pyro_unmix.baselines.vca import vca
from pyro_unmix.scene import Scene

# As in the authors' own program (TV_RSNMF_public, its demo on 188 simulated bands), for pixels scaled to maximum 1.
_SPARSITY = 0.01
_VARIATION = 0.02
_COUPLING = 100.0  # of the abundances to their smooth copy
_SUM_TO_ONE = 15.0  # value of a band added to pixels and endmembers
_ITERATIONS = 1000
_TOLERANCE = 1e-6  # on the change of the abundances; theirs is absolute, ours relative

_DENOISING = 3  # iterations, from where the last denoising ended; the authors' 10 start anew, and lead to the same maps
_LEAST = 1e-3  # ours: zeros never leave zero in a multiplicative update
_TINY = 1e-12


def tv_rsnmf(scene: Scene, n_endmembers: int, *, seed: int = 0) -> Estimate:
    """Reweighted sparse non-negative matrix factorisation, regularised by total variation.

    He, Zhang and Zhang (2017), IEEE TGRS 55(7), "Total variation regularized reweighted sparse nonnegative matrix factorization
    for hyperspectral unmixing". From vertex component analysis and fully constrained least squares, endmembers M, abundances Z
    and their smooth copy X alternate to make least ::

        1/2 |Y - Z M|^2 + 0.01 sum w z + 100/2 |Z - X|^2 + 2 * 0.02 TV(X),    w = 1 / z of the iteration before,

    M and Z by multiplicative updates, X by denoising each abundance map. Values below zero count as zero.

    Parameters
    ----------
    scene
        Masked pixels take no part.
    n_endmembers
        Number of endmembers.
    seed
        Of vertex component analysis.

    Raises
    ------
    InputError
        More endmembers than directions in which the pixels point.
    """
    pixels = np.maximum(scene.pixels().astype(np.float64), 0.0)
    scale = pixels.max() or 1.0
    pixels /= scale
    endmembers = vca(pixels, n_endmembers, seed=seed).clip(min=_LEAST)
    abundances = fcls(torch.as_tensor(pixels), torch.as_tensor(endmembers)).numpy().clip(min=_LEAST)

    denoise = TotalVariation(scene.mask.values, 2.0 * _VARIATION / _COUPLING)
    smooth = abundances
    for _ in range(_ITERATIONS):
        before = abundances
        endmembers = endmembers * (abundances.T @ pixels) / np.maximum(abundances.T @ abundances @ endmembers, _TINY)
        gram, cross = endmembers @ endmembers.T + _SUM_TO_ONE**2, pixels @ endmembers.T + _SUM_TO_ONE**2
        pull = abundances @ gram + _COUPLING * abundances + _SPARSITY / (abundances + _TINY)
        abundances = abundances * (cross + _COUPLING * smooth) / pull
        smooth = denoise(abundances, iterations=_DENOISING)
        if np.linalg.norm(abundances - before) <= _TOLERANCE * np.linalg.norm(before):
            break
    return Estimate(scale * endmembers, abundances / abundances.sum(axis=1, keepdims=True))


class TotalVariation:
    """Denoises maps: least `1/2 |x - map|^2 + weight TV(x)`, isotropic, over neighbours that are both in use.

    Fast gradient projection on the dual, from where the call before ended: Beck and Teboulle (2009), IEEE TIP 18(11), section 4.

    Parameters
    ----------
    mask
        `(rows, cols)`, True where a pixel is in use.
    weight
        Of the total variation.
    """

    def __init__(self, mask: np.ndarray, weight: float):
        self.mask, self.weight = mask, weight
        self.down = mask[1:] & mask[:-1]
        self.right = mask[:, 1:] & mask[:, :-1]
        self.dual = np.zeros((2, 1, *mask.shape))

    def __call__(self, values: np.ndarray, *, iterations: int) -> np.ndarray:
        """`values` `(n_pixels, n_maps)`, pixels in use row by row; the same shape comes back."""
        maps = np.zeros((values.shape[1], *self.mask.shape))
        maps[:, self.mask] = values.T
        dual = np.broadcast_to(self.dual, (2, *maps.shape))
        ahead, momentum = dual, 1.0
        for _ in range(iterations):
            following = ahead + self._gradient(maps - self.weight * self._adjoint(ahead)) / (8.0 * self.weight)
            following = following / np.maximum(np.sqrt((following**2).sum(axis=0)), 1.0)
            faster = (1.0 + np.sqrt(1.0 + 4.0 * momentum**2)) / 2.0
            ahead = following + (momentum - 1.0) / faster * (following - dual)
            dual, momentum = following, faster
        self.dual = dual
        return (maps - self.weight * self._adjoint(dual))[:, self.mask].T

    def _gradient(self, maps: np.ndarray) -> np.ndarray:
        """Differences `(2, n_maps, rows, cols)` to the pixels below and to the right; zero where one is not in use."""
        gradient = np.zeros((2, *maps.shape))
        gradient[0, :, :-1] = (maps[:, 1:] - maps[:, :-1]) * self.down
        gradient[1, :, :, :-1] = (maps[:, :, 1:] - maps[:, :, :-1]) * self.right
        return gradient

    @staticmethod
    def _adjoint(dual: np.ndarray) -> np.ndarray:
        """Of `_gradient`, for a `dual` that is zero where that is."""
        maps = -dual.sum(axis=0)
        maps[:, 1:] += dual[0, :, :-1]
        maps[:, :, 1:] += dual[1, :, :, :-1]
        return maps
