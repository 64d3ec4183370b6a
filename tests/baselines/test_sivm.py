"""Simplex volume maximisation against Cayley-Menger determinants of all candidates."""

from __future__ import annotations

import math

import numpy as np
import pytest

from pyro_unmix.baselines.sivm import sivm
from pyro_unmix.baselines.spa import spa


def volume(vertices):
    """Of a simplex, from the distances of its vertices alone."""
    n = len(vertices) - 1
    bordered = np.ones((n + 2, n + 2))
    bordered[0, 0] = 0.0
    bordered[1:, 1:] = ((vertices[:, None] - vertices) ** 2).sum(axis=-1)
    squared = (-1) ** (n + 1) * np.linalg.det(bordered) / (2**n * math.factorial(n) ** 2)
    return math.sqrt(max(squared, 0.0))


def test_the_determinant_is_the_volume():
    assert volume(np.eye(3)) == pytest.approx(math.sqrt(3) / 2)
    assert volume(np.vstack([np.zeros(3), np.eye(3)])) == pytest.approx(1 / 6)


@pytest.mark.parametrize("k", [2, 3, 5])
def test_every_pixel_adds_most_volume(k):
    for seed in range(5):
        pixels = np.random.default_rng(seed).uniform(0.1, 0.9, (60, 8))
        found = sivm(pixels, k)
        np.testing.assert_array_equal(found[:1], pixels[[np.linalg.norm(pixels - pixels.mean(axis=0), axis=1).argmax()]])
        for n in range(1, k):
            volumes = [volume(np.vstack([found[:n], pixel])) for pixel in pixels]
            np.testing.assert_array_equal(found[n], pixels[np.argmax(volumes)])


def test_the_origin_does_not_matter():
    """Unlike successive projection, which measures from it."""
    pixels = np.random.default_rng(0).uniform(0.1, 0.9, (60, 8))
    np.testing.assert_allclose(sivm(pixels + 3.0, 4) - 3.0, sivm(pixels, 4), atol=1e-12)
    assert np.abs(spa(pixels + 3.0, 4) - 3.0 - spa(pixels, 4)).max() > 0.1
