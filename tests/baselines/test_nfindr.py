"""N-FINDR against determinants computed one by one."""

from __future__ import annotations

from itertools import combinations

import numpy as np
import pytest

from pyro_unmix.baselines.nfindr import nfindr
from pyro_unmix.io import open_scene
from pyro_unmix.metrics import match, spectral_angle


def volume(endmembers, pixels):
    """Of the simplex, up to a factor, in the principal directions of the pixels."""
    centre, k = pixels.mean(axis=0), len(endmembers)
    basis = np.linalg.svd(pixels - centre, full_matrices=False)[2][: k - 1]
    return abs(np.linalg.det(np.column_stack([(endmembers - centre) @ basis.T, np.ones(k)])))


@pytest.mark.parametrize("k", [2, 3, 4])
def test_no_other_pixel_makes_the_simplex_larger(k):
    for seed in range(5):
        pixels = np.random.default_rng(seed).uniform(0.1, 0.9, (25, 6))
        found = nfindr(pixels, k, seed=seed)
        for place in range(k):
            for pixel in pixels:
                other = found.copy()
                other[place] = pixel
                assert volume(other, pixels) <= volume(found, pixels) * (1 + 1e-6)


def test_most_often_no_other_simplex_is_larger():
    """Replacing one vertex at a time can end short of the largest; over 30 scenes it rarely does."""
    ratios = []
    for seed in range(30):
        pixels = np.random.default_rng(seed).uniform(0.1, 0.9, (11, 6))
        largest = max(volume(pixels[list(chosen)], pixels) for chosen in combinations(range(11), 3))
        ratios.append(volume(nfindr(pixels, 3, seed=seed), pixels) / largest)
    assert max(ratios) < 1 + 1e-9 and np.mean(np.array(ratios) > 1 - 1e-9) > 0.8


def test_seeds_start_in_different_places():
    """In a round cloud there are many local maxima."""
    pixels = 0.5 + 0.1 * np.random.default_rng(0).standard_normal((300, 10))
    answers = {nfindr(pixels, 5, seed=seed).tobytes() for seed in range(10)}
    assert len(answers) > 1
    np.testing.assert_array_equal(nfindr(pixels, 5, seed=4), nfindr(pixels, 5, seed=4))


def test_a_real_scene(real_data):
    scene = open_scene(real_data / "samson.npz")
    truth = scene.reference.endmembers.values
    found = nfindr(scene.pixels(), 3)
    assert spectral_angle(found[match(found, truth)], truth).mean() < 0.1
