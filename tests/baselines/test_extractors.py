"""What holds for every extractor that chooses among the pixels."""

from __future__ import annotations

import numpy as np
import pytest

from pyro_unmix.baselines.nfindr import nfindr
from pyro_unmix.baselines.sivm import sivm
from pyro_unmix.baselines.spa import spa
from pyro_unmix.baselines.vca import vca
from pyro_unmix.errors import InputError
from pyro_unmix.simulate import absorption_spectra

extractors = pytest.mark.parametrize("extract", [vca, nfindr, spa, sivm], ids=lambda extract: extract.__name__)


def mixtures(k, noise=0.0, n_pixels=300):
    """Pixels among which there are pure ones, and the endmembers."""
    random = np.random.default_rng(k)
    endmembers = absorption_spectra(k, np.linspace(400, 2500, 40), seed=k)
    pixels = np.vstack([random.dirichlet(np.full(k, 0.7), n_pixels) @ endmembers, endmembers])
    return random.permutation(pixels + noise * random.standard_normal(pixels.shape)), endmembers


@extractors
@pytest.mark.parametrize("k", [1, 2, 3, 5, 8])
def test_pure_pixels_without_noise_are_found(extract, k):
    pixels, endmembers = mixtures(k)
    for seed in range(3):
        found = extract(pixels, k, seed=seed)
        assert found.shape == endmembers.shape and found.dtype == np.float64
        distances = np.linalg.norm(found[:, None] - endmembers, axis=-1)
        assert set(distances.argmin(axis=0)) == set(range(k)) and distances.min(axis=0).max() < 1e-8


@extractors
@pytest.mark.parametrize("noise", [0.0, 0.005, 0.1])
@pytest.mark.parametrize("repeats", [1, 3])
def test_the_order_of_the_pixels_does_not_matter(extract, noise, repeats):
    pixels = np.repeat(mixtures(4, noise)[0], repeats, axis=0)
    found = extract(pixels, 4, seed=1)
    for order in (np.arange(len(pixels))[::-1], np.random.default_rng(0).permutation(len(pixels))):
        np.testing.assert_array_equal(extract(pixels[order], 4, seed=1), found)


@extractors
def test_but_the_pixels_do(extract):
    """The negative control of the order."""
    pixels = mixtures(4, 0.005)[0]
    assert np.abs(extract(pixels[:150], 4) - extract(pixels[150:], 4)).max() > 1e-3


@extractors
def test_the_unit_does_not_matter(extract):
    pixels = mixtures(4, 0.005)[0]
    np.testing.assert_allclose(extract(1e4 * pixels, 4), 1e4 * extract(pixels, 4), rtol=1e-9)


@extractors
def test_the_pixels_are_left_as_they_are(extract):
    pixels = mixtures(4, 0.005)[0]
    before = pixels.copy()
    extract(pixels, 4)
    np.testing.assert_array_equal(pixels, before)


@extractors
def test_single_precision_is_taken(extract):
    pixels = mixtures(3)[0].astype(np.float32)
    np.testing.assert_allclose(extract(pixels, 3), extract(pixels.astype(np.float64), 3), rtol=0, atol=1e-5)


@extractors
@pytest.mark.parametrize("pixels, k, message", [
    (mixtures(3)[0], 4, "at most 3"),
    (mixtures(3)[0], 0, "at least 1"),
    (mixtures(5)[0][:2], 3, "at most 2"),
    (mixtures(5)[0][:, :4], 5, "at most 4"),
    (np.full((30, 8), 0.3), 2, "at most 1"),
    (np.zeros((30, 8)), 2, "at most 0"),
    (np.where(np.eye(8) > 0, np.nan, 0.3), 2, "finite pixels"),
    (np.zeros((4, 4, 8)), 2, "finite pixels"),
    (np.zeros((0, 8)), 2, "finite pixels"),
], ids=["rank", "none", "few pixels", "few bands", "constant", "dark", "not finite", "a cube", "empty"])
def test_what_cannot_be_is_refused(extract, pixels, k, message):
    with pytest.raises(InputError, match=message):
        extract(pixels, k)


@extractors
def test_a_real_scene_is_reconstructed(extract, real_data):
    """Endmembers that are pixels span most of what the pixels are: at least 99 % of the power, from 80 % for one endmember."""
    image = np.load(real_data / "jasper_ridge.npz")["image"][::2, ::2]
    pixels = image.reshape(-1, image.shape[-1]).astype(np.float64)

    def left(k):
        endmembers = extract(pixels, k)
        return 1 - (pixels @ np.linalg.pinv(endmembers) @ endmembers * pixels).sum() / (pixels**2).sum()

    assert left(4) < 0.01 < left(1)
