"""Intervals that say 90 % hold the truth about 90 % of the time, and do so because of the calibration.

Scenes are drawn from the model: their endmembers are a draw from the prior that the fit is given. So everything the fit
believes is true, and what is measured is the machinery. Endmembers found blindly are another matter: where the scene has no
pure pixels they are wrong by more than the fit knows, and no calibration against the fitted model can tell.
"""

from __future__ import annotations

from functools import cache

import numpy as np
import pytest

import pyro_unmix as pu
from pyro_unmix.initialize import informed_endmembers
from pyro_unmix.priors import smooth_scale_tril

pytestmark = pytest.mark.statistical

SD = 0.02  # of an endmember under its prior, in units of its root mean square
BOUNDS = (0.85, 0.96)
SCENES = [(0.2, 0), (0.2, 1), (0.2, 2), (0.0, 3)]  # spread of the brightness, seed


@cache
def coverage(brightness: float, seed: int, **settings) -> float:
    """Of the central 90 % intervals of all abundances: 1024 pixels, four endmembers, 50 bands, 30 dB."""
    scene = pu.simulate_scene(4, (32, 32), n_bands=50, snr_db=30.0, brightness=brightness, seed=seed)
    truth = scene.reference.endmembers.values.astype(np.float64)
    random = np.random.default_rng(100 + seed)
    sds = SD * np.sqrt(np.mean(truth**2, axis=1))
    # Truth minus a draw from the prior around zero: seen from there, the truth is a draw from the prior.
    centre = truth - np.stack([smooth_scale_tril(scene.wavelengths, 50, sd).double().numpy() @ random.standard_normal(50)
                               for sd in sds])
    model = pu.UnmixingModel(4, endmembers=informed_endmembers(centre, scene, 4, sd=SD))
    fit = pu.fit(model, scene, seed=seed, config=pu.FitConfig(**settings), progress=False)
    found = pu.evaluate(fit.posterior(scene).summary(), scene.reference).coverage_90
    print(f"brightness {brightness}, seed {seed}, {settings or 'default'}: {found:.3f}")
    return found


def holds(found: float) -> bool:
    return BOUNDS[0] <= found <= BOUNDS[1]


@pytest.mark.parametrize("brightness, seed", SCENES)
def test_intervals_of_the_default_fit_hold_the_truth(brightness, seed):
    """Pixels share their endmembers, so a scene is one sample. Over ten scenes like these coverage was 0.914 to 0.948, with
    standard deviations of 0.005 (brightness) and 0.009 (none): the nearer bound is three of them away, which fails for one
    seed in 700."""
    assert holds(coverage(brightness, seed))


def test_negative_control_the_elbo_alone_is_overconfident():
    """The same guide without calibration fails the same check. Measured: 0.455 to 0.619, standard deviation 0.06, so the
    mean of three reaches 0.7 once in 10,000 times."""
    found = [coverage(brightness, seed, calibration_steps=0) for brightness, seed in SCENES[:3]]
    assert not any(holds(value) for value in found)
    assert np.mean(found) < 0.7
    assert all(value < coverage(*scene) - 0.2 for value, scene in zip(found, SCENES, strict=False))
