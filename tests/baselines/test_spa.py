"""Successive projection against the pivots of a QR factorisation, and what it takes for pure."""

from __future__ import annotations

import numpy as np
import pytest
from scipy import linalg

from pyro_unmix.baselines.spa import spa
from pyro_unmix.simulate import absorption_spectra


@pytest.mark.parametrize("k", [1, 2, 4, 7])
def test_the_pivots_of_a_factorisation(k):
    """Column-pivoted QR of LAPACK makes the same choices."""
    pixels = np.random.default_rng(k).uniform(0.1, 0.9, (200, 12))
    pivots = linalg.qr(pixels.T, mode="r", pivoting=True)[1][:k]
    np.testing.assert_array_equal(spa(pixels, k), pixels[pivots])


def test_dark_pixels_are_no_endmembers():
    random = np.random.default_rng(0)
    endmembers = absorption_spectra(3, np.linspace(400, 2500, 30), seed=0)
    pixels = np.vstack([random.dirichlet(np.ones(3), 100) @ endmembers, endmembers])
    dark = np.vstack([pixels, np.zeros((50, 30)), 1e-3 * random.standard_normal((50, 30))])
    np.testing.assert_array_equal(spa(dark, 3), spa(pixels, 3))


def test_a_bright_pixel_counts_as_pure():
    """The limit of the method, as its docstring says."""
    endmembers = absorption_spectra(3, np.linspace(400, 2500, 30), seed=0)
    bright = 5.0 * endmembers.mean(axis=0)
    np.testing.assert_array_equal(spa(np.vstack([endmembers, bright]), 3)[0], bright)
