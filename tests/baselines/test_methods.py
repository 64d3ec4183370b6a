"""Every method by name: one contract."""

from __future__ import annotations

import numpy as np
import pytest

from pyro_unmix.baselines.methods import METHODS
from pyro_unmix.errors import InputError
from pyro_unmix.metrics import evaluate
from pyro_unmix.scene import Scene
from pyro_unmix.simulate import simulate_scene

ALL = pytest.mark.parametrize("name", METHODS)


@pytest.fixture(scope="module")
def scene():
    """16 x 16 pixels, 20 bands, three endmembers, with a hole."""
    made = simulate_scene(3, (16, 16), n_bands=20, snr_db=30.0, concentration=0.5, correlation_length=2.0, seed=3)
    mask = np.ones((16, 16), bool)
    mask[2:5, 3:8] = False
    return Scene(made.reflectance, mask=mask, abundances=made.reference.abundances.values,
                 endmembers=made.reference.endmembers.values)


@pytest.fixture(scope="module")
def estimates(scene):
    """Each method's answer, computed once."""
    return {}


def estimate(name, scene, estimates):
    if name not in estimates:
        estimates[name] = METHODS[name](scene, 3, seed=1)
    return estimates[name]


@ALL
def test_abundances_are_fractions(name, scene, estimates):
    endmembers, abundances = estimate(name, scene, estimates)
    assert endmembers.shape == (3, 20) and abundances.shape == (scene.n_pixels, 3)
    assert np.isfinite(endmembers).all() and np.isfinite(abundances).all()
    assert (abundances >= 0.0).all()
    np.testing.assert_allclose(abundances.sum(axis=1), 1.0, atol=1e-6)


@ALL
def test_summary_can_be_evaluated(name, scene, estimates):
    summary = estimate(name, scene, estimates).summary(scene)
    np.testing.assert_array_equal(np.isnan(summary.abundance_mean.values).all(axis=-1), ~scene.mask.values)
    np.testing.assert_array_equal(np.isnan(summary.abundance_mean.values).any(axis=-1), ~scene.mask.values)
    evaluation = evaluate(summary, scene.reference)
    assert evaluation.n_pixels == scene.n_pixels
    # An even mixture everywhere is wrong by this: a method has to know more.
    reference = scene.reference.abundances.values[scene.mask.values]
    assert evaluation.rmse < 0.6 * np.sqrt(np.mean((reference - 1.0 / 3.0) ** 2))


@ALL
def test_same_seed_same_result(name, scene, estimates):
    first, second = estimate(name, scene, estimates), METHODS[name](scene, 3, seed=1)
    np.testing.assert_array_equal(second.endmembers, first.endmembers)
    np.testing.assert_array_equal(second.abundances, first.abundances)


@ALL
def test_masked_pixels_take_no_part(name, scene, estimates):
    image = np.where(scene.mask.values[..., None], scene.reflectance.values, 7.0 - scene.reflectance.values)
    other = METHODS[name](Scene(image, mask=scene.mask.values), 3, seed=1)
    np.testing.assert_array_equal(other.endmembers, estimate(name, scene, estimates).endmembers)
    np.testing.assert_array_equal(other.abundances, estimate(name, scene, estimates).abundances)


# Archetypes are combinations of pixels, however many are asked for.
@pytest.mark.parametrize("name", [name for name in METHODS if not name.startswith("archetypes")])
def test_more_endmembers_than_directions_are_refused(name):
    image = np.ones((4, 4, 1)) * np.linspace(0.1, 0.9, 8)
    image[:2] = image[:2, :, ::-1]
    with pytest.raises(InputError):
        METHODS[name](Scene(image), 3)
