"""Matrix factorisation in which the pixels of a superpixel are drawn to the same few endmembers."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import torch
from scipy import sparse

from pyro_unmix.baselines.estimate import Estimate
from pyro_unmix.baselines.fcls import fcls
from pyro_unmix.baselines.vca import vca
from pyro_unmix.scene import Scene

# As in the authors' own program (github.com/Xinyu-Wang/SGSNMF_TGRS), for pixels scaled to maximum 1.
_WIDTH = 6  # of a superpixel, in pixels; the authors advise 3 to 11
_SPATIAL = 0.5  # weight of the distance in space, in widths, against the angle between spectra
_ROUNDS = 10  # of clustering
_SPARSITY = 0.3  # weight of the group sparsity
_SUM_TO_ONE = 15.0  # value of a band added to pixels and endmembers
_ITERATIONS = 100

# Ours, where the authors have a rule of another kind.
_STEPS = 50  # of a descent; theirs ends on the size of the gradient, at the latest after 100
_TOLERANCE = 1e-4  # on the relative decrease of the sum that is minimised; theirs is on that of the residual alone
_MOST_CONFIDENCE = 10.0  # theirs is infinite where a pixel equals the centre of its superpixel


def sgsnmf(scene: Scene, n_endmembers: int, *, seed: int = 0) -> Estimate:
    """Non-negative matrix factorisation with spatial group sparsity.

    Wang, Zhong, Zhang and Xu (2017), IEEE TGRS 55(11), "Spatial group sparsity regularized nonnegative matrix factorization for
    hyperspectral unmixing". From vertex component analysis and fully constrained least squares (the authors take the former on
    means of superpixels), abundances z and endmembers M alternate to make least ::

        1/2 sum_n |y_n - z_n M|^2 + 0.3 sum_n c_n |w_g(n) z_n|,    w_g = 1 / (K^2 a_g + 1),

    where a_g are the abundances of the mean spectrum of superpixel g, and c_n is the confidence that pixel n belongs to it.
    Values below zero count as zero.

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
    labels, confidence = superpixels(pixels, scene.mask.values)
    means = _means(pixels, labels, labels.max() + 1)
    endmembers = vca(pixels, n_endmembers, seed=seed).clip(min=0.0)
    abundances = _fcls(pixels, endmembers)

    before = np.inf
    for _ in range(_ITERATIONS):
        weights = (1.0 / (n_endmembers**2 * _fcls(means, endmembers) + 1.0))[labels]
        abundances = _fit_abundances(pixels, endmembers, abundances, weights, _SPARSITY * confidence)
        endmembers = _fit_endmembers(pixels, endmembers, abundances)
        total = 0.5 * ((pixels - abundances @ endmembers) ** 2).sum() + _SPARSITY * confidence @ _length(weights * abundances)
        if before - total <= _TOLERANCE * total:
            break
        before = total
    return Estimate(scale * endmembers, abundances / abundances.sum(axis=1, keepdims=True))


def _fit_abundances(pixels: np.ndarray, endmembers: np.ndarray, start: np.ndarray, weights: np.ndarray,
                    sparsity: np.ndarray) -> np.ndarray:
    """Least `1/2 |y - z M|^2 + sparsity |weights z|` of every pixel, from `start`."""
    gram, cross = endmembers @ endmembers.T + _SUM_TO_ONE**2, pixels @ endmembers.T + _SUM_TO_ONE**2
    steepest, penalty = np.linalg.eigvalsh(gram)[-1], sparsity[:, None] * weights**2
    most = penalty.max(axis=1)

    def slope(abundances: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        # A length lies below the parabola that touches it here, whose curvature is one over the length.
        pull = 1.0 / np.maximum(_length(weights * abundances), 1e-3)
        return abundances @ gram - cross + penalty * pull[:, None] * abundances, (steepest + most * pull)[:, None]

    return _descend(start, slope)


def _fit_endmembers(pixels: np.ndarray, start: np.ndarray, abundances: np.ndarray) -> np.ndarray:
    """Least squares, from `start`."""
    gram, cross = abundances.T @ abundances, abundances.T @ pixels
    steepest = np.linalg.eigvalsh(gram)[-1:]
    return _descend(start, lambda endmembers: (gram @ endmembers - cross, steepest))


def _descend(start: np.ndarray, slope: Callable[[np.ndarray], tuple[np.ndarray, np.ndarray]]) -> np.ndarray:
    """Non-negative minimum, given the gradient and a bound of the curvature: projected gradients with momentum, as in NeNMF (Guan
    et al. 2012, IEEE TSP 60(6))."""
    point, ahead, momentum = start, start, 1.0
    for _ in range(_STEPS):
        gradient, curvature = slope(ahead)
        following = np.maximum(ahead - gradient / curvature, 0.0)
        faster = (1.0 + np.sqrt(1.0 + 4.0 * momentum**2)) / 2.0
        ahead = np.maximum(following + (momentum - 1.0) / faster * (following - point), 0.0)
        point, momentum = following, faster
    return point


def superpixels(pixels: np.ndarray, mask: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Superpixels: pixels near each other in angle and in space, and how surely each belongs to its own.

    SLIC of Achanta et al. (2012), IEEE TPAMI 34(11), with the distance of Wang et al. (2017): the square root of the angle
    between spectra plus a quarter of the squared distance in space, in widths of a superpixel. A pixel may join the nine nearest
    cells of the starting grid, as in gSLIC (Ren and Reid 2011, Oxford technical report); parts that come apart are left so.

    Parameters
    ----------
    pixels
        `(n_pixels, n_bands)`, pixels in use row by row.
    mask
        `(rows, cols)`, True where a pixel is in use.

    Returns
    -------
    labels
        `(n_pixels,)`, from 0 without gaps.
    confidence
        `(n_pixels,)`, one over the distance to the centre of the superpixel, at most 10.
    """
    place = np.argwhere(mask).astype(np.float64)
    grid = np.maximum(np.rint(np.array(mask.shape) / _WIDTH).astype(int), 1)
    cell = (place * grid // mask.shape).astype(int)
    steps = np.array([(y, x) for y in (-1, 0, 1) for x in (-1, 0, 1)])[:, None]
    near = np.ravel_multi_index(tuple(np.moveaxis(cell + steps, -1, 0)), tuple(grid), mode="clip")
    labels, unit = np.ravel_multi_index(tuple(cell.T), tuple(grid)), _unit(pixels)

    def squared_distances(chosen: np.ndarray) -> np.ndarray:
        """From each pixel to the superpixels `chosen` `(m, n_pixels)`, as `labels` make them."""
        spectra, places = _unit(_means(pixels, labels, grid.prod())), _means(place, labels, grid.prod())
        places[np.bincount(labels, minlength=grid.prod()) == 0] = np.inf
        angles = [np.arccos(np.einsum("nl,nl->n", unit, spectra[to]).clip(0.0, 1.0)) for to in chosen]
        return np.array(angles) + (_SPATIAL / _WIDTH) ** 2 * ((place - places[chosen]) ** 2).sum(axis=-1)

    for _ in range(_ROUNDS):
        nearest = near[squared_distances(near).argmin(axis=0), np.arange(len(place))]
        if (nearest == labels).all():
            break
        labels = nearest
    confidence = 1.0 / np.sqrt(squared_distances(labels[None])[0].clip(min=1.0 / _MOST_CONFIDENCE**2))
    return np.unique(labels, return_inverse=True)[1], confidence


def _means(rows: np.ndarray, labels: np.ndarray, n_groups: int) -> np.ndarray:
    """Mean of the `rows` `(n, m)` of each group, `(n_groups, m)`; zero for a group without any."""
    members = sparse.csr_array((np.ones(len(rows)), (labels, np.arange(len(rows)))), shape=(n_groups, len(rows)))
    return members @ rows / np.maximum(members.sum(axis=1), 1.0)[:, None]


def _length(rows: np.ndarray) -> np.ndarray:
    return np.sqrt(np.einsum("nk,nk->n", rows, rows))


def _unit(spectra: np.ndarray) -> np.ndarray:
    return spectra / np.maximum(np.linalg.norm(spectra, axis=1, keepdims=True), np.finfo(float).tiny)


def _fcls(pixels: np.ndarray, endmembers: np.ndarray) -> np.ndarray:
    return fcls(torch.as_tensor(pixels), torch.as_tensor(endmembers)).numpy()
