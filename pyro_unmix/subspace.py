"""The subspace in which the pixels of a scene lie, and how many endmembers it takes to span it."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from scipy import special

from pyro_unmix.errors import InputError

# Spectra of one material differ by some percent from pixel to pixel: a direction with less of the signal is no material's own.
VARIABILITY = 0.01
# Residuals of L2-normalised pixels beyond the signal: effective share of independent bands above which noise counts as white.
# Simulated scenes lie at 0.45 to 0.95, real ones at 0.03 to 0.24.
WHITE = 0.3
# What the largest eigenvalue of white noise, centred and scaled, passes in one scene of a thousand: the Tracy-Widom distribution,
# Johnstone (2001), Annals of Statistics 29(2).
_EDGE = 3.27


class Subspace(NamedTuple):
    """Number of endmembers, and an orthonormal basis `(n_endmembers, n_bands)` of the subspace they span, strongest first."""

    n_endmembers: int
    basis: np.ndarray


def count_endmembers(pixels: np.ndarray) -> int:
    """How many endmembers to look for in `pixels` `(n_pixels, n_bands)`, at least 2.

    The directions counted by `hysime` that hold more than 1 % of the root mean square of the pixels, noise taken off; all that
    it counts where what lies beyond those is white (`effective_bands`). Both conditions are ours: in real scenes the spectra of
    one material vary, which adds directions far above the noise and far below the materials.

    An estimate, no more. In simulated scenes of white noise at 30 dB it is right from 3 to 9 endmembers. At 20 dB a material
    may drown in the noise; at 40 dB one that differs from mixtures of the others by less than 1 % looks like variation: with six
    and more the count is often too low at both. Spectra that vary by less than the white noise raise it: 2 % made 8 of 3 at
    30 dB. In the scenes Samson, Jasper Ridge and Urban it is two above what people count, 5, 6 and 6; in Cuprite, with 3, it is
    far below. Brightness alone adds nothing.

    Raises
    ------
    InputError
        No more pixels than bands, values that are not finite, or pixels that all point in one direction.
    """
    gram = _gram(pixels)
    rank = _rank(gram)
    if rank < 2:
        raise InputError("pixels that point in two directions at least", f"{rank}", "a scene of one spectrum cannot be unmixed")
    found, basis = hysime(pixels)
    signal = ((basis @ gram) * basis).sum(axis=1) - basis**2 @ noise_variance(pixels)
    count = int((signal > VARIABILITY**2 * np.trace(gram)).sum())
    shapes = pixels / np.maximum(np.linalg.norm(pixels, axis=1, keepdims=True), 1e-12)
    if effective_bands(shapes, count) > WHITE * len(gram):
        count = found
    return min(max(count, 2), rank)


def hysime(pixels: np.ndarray) -> Subspace:
    """The signal subspace by minimum error: the directions that hold more signal than noise.

    Bioucas-Dias and Nascimento (2008), IEEE TGRS 46(8), "Hyperspectral subspace identification", with noise that is independent
    from band to band. It counts whatever lies above the noise: correlated noise, variable spectra and nonlinear mixing too, so
    that on real scenes it is an upper bound. Brightness that varies adds nothing.

    Parameters
    ----------
    pixels
        `(n_pixels, n_bands)`, not centred.

    Raises
    ------
    InputError
        No more pixels than bands, or values that are not finite.
    """
    gram = _gram(pixels)
    precision = _precision(gram)
    kept = np.eye(len(gram)) - precision / np.diag(precision)  # every band becomes its regression on all others
    directions = np.linalg.eigh(kept.T @ gram @ kept)[1].T[::-1]
    power = ((directions @ gram) * directions).sum(axis=1)
    basis = directions[power > 2.0 * directions**2 @ noise_variance(pixels)]
    return Subspace(len(basis), basis)


def hfc(pixels: np.ndarray, false_alarm: float = 1e-3) -> int:
    """Virtual dimensionality: the eigenvalues that differ between correlation and covariance, as those of noise do not.

    Harsanyi, Farrand and Chang (1993), Proc. American Society for Photogrammetry and Remote Sensing; Chang and Du (2004), IEEE
    TGRS 42(3), "Estimation of number of spectrally distinct signal sources in hyperspectral imagery". Their noise-whitened
    variant is `hfc(pixels / noise_variance(pixels) ** 0.5)`.

    Parameters
    ----------
    pixels
        `(n_pixels, n_bands)`, not centred.
    false_alarm
        Probability with which the test of one eigenvalue takes noise for signal, below one half.

    Raises
    ------
    InputError
        No more pixels than bands, values that are not finite, or a probability out of range.
    """
    if not 0.0 < false_alarm < 0.5:
        raise InputError("a probability of a false alarm between 0 and 0.5", f"{false_alarm}")
    gram, mean = _gram(pixels), np.mean(pixels, axis=0, dtype=np.float64)
    correlation, covariance = np.linalg.eigvalsh(gram), np.linalg.eigvalsh(gram - np.outer(mean, mean))
    deviation = np.sqrt(2.0 / len(pixels) * (correlation**2 + covariance**2))
    return min(int((correlation - covariance > -special.ndtri(false_alarm) * deviation).sum()), _rank(gram))


def noise_variance(pixels: np.ndarray) -> np.ndarray:
    """Variance `(n_bands,)` of the noise in every band of `pixels` `(n_pixels, n_bands)`.

    What a regression of the band on all others leaves: Bioucas-Dias and Nascimento (2008), IEEE TGRS 46(8), algorithm 1. What
    neighbouring bands have in common, noise or not, counts as signal.

    Raises
    ------
    InputError
        No more pixels than bands, or values that are not finite.
    """
    left = 1.0 / np.diag(_precision(_gram(pixels)))
    n_pixels, n_bands = pixels.shape
    return left * n_pixels / (n_pixels - n_bands + 1)  # unbiased: a regression on all other bands takes up a part of the noise


def effective_bands(shapes: np.ndarray, n_endmembers: int) -> float:
    """How many independent bands the residuals of a scene amount to.

    (sum of eigenvalues)^2 / sum of squares, over the eigenvalues of the pixels divided by their norm `(n_pixels, n_bands)` beyond
    the leading `n_endmembers`. Near the number of bands for white noise, a few for correlated residuals, 1 where there are none.
    """
    values = np.linalg.eigvalsh(shapes.T @ shapes / len(shapes))[: shapes.shape[1] - n_endmembers]
    values = np.maximum(values, 0)
    return max(1.0, float(values.sum() ** 2 / max((values**2).sum(), 1e-300)))


def noise_edge(n_pixels: int, n_directions: int) -> float:
    """What the largest eigenvalue of the mean product of white noise of unit variance, `n_pixels` in `n_directions`, passes in
    one scene of a thousand: Marchenko and Pastur (1967), with the fluctuation of Johnstone (2001)."""
    one, other = np.sqrt(n_pixels - 1), np.sqrt(n_directions)
    return float(((one + other) ** 2 + _EDGE * (one + other) * (1 / one + 1 / other) ** (1 / 3)) / n_pixels)


def candidates(pixels: np.ndarray, n_endmembers: int) -> np.ndarray:
    """`pixels` `(n_pixels, n_bands)` in an order that does not depend on theirs, once `n_endmembers` can be looked for in them.

    Raises
    ------
    InputError
        Not a table of finite numbers, fewer than one endmember, or more than the directions in which the pixels point.
    """
    if np.ndim(pixels) != 2 or 0 in np.shape(pixels) or not np.isfinite(pixels).all():
        raise InputError("finite pixels of shape (n_pixels, n_bands)", f"an array of shape {np.shape(pixels)}",
                         "leave out pixels and bands without a value")
    rows = np.ascontiguousarray(pixels, dtype=np.float64)
    rank = _rank(rows.T @ rows)
    if not 1 <= n_endmembers <= rank:
        raise InputError(f"at least 1 endmember, and at most {rank}, the number of directions in which the pixels point",
                         f"{n_endmembers}", "ask for fewer, or take a larger or more varied scene")
    return rows[rows.view(f"V{rows[0].nbytes}")[:, 0].argsort(kind="stable")]  # by their bytes: any order that is always the same


def _gram(pixels: np.ndarray) -> np.ndarray:
    """Mean product `(n_bands, n_bands)` of bands, of pixels that are enough to tell noise from signal."""
    if np.ndim(pixels) != 2 or len(pixels) <= np.shape(pixels)[1] or not np.isfinite(pixels).all():
        raise InputError("finite pixels of shape (n_pixels, n_bands), more pixels than bands",
                         f"an array of shape {np.shape(pixels)}", "say how many endmembers to look for")
    rows = np.asarray(pixels, dtype=np.float64)
    return rows.T @ rows / len(rows)


def _rank(gram: np.ndarray) -> int:
    """Number of directions, those with less than 1e-5 of the length of the strongest left out."""
    values = np.linalg.eigvalsh(gram)
    return int((values > 1e-10 * values[-1]).sum())


def _precision(gram: np.ndarray) -> np.ndarray:
    """Inverse of `gram`, with a ridge where float64 has no more digits of it: for pixels without noise, and for empty bands."""
    return np.linalg.inv(gram + (1e-13 * np.trace(gram) + np.finfo(float).tiny) * np.eye(len(gram)))
