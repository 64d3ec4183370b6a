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
SEEDS = (0, 1, 2)


@cache
def coverage(brightness: float, seed: int, correlation_length: float = 4.0, **settings) -> float:
    """Of the central 90 % intervals of all abundances: 1024 pixels, four endmembers, 50 bands, 30 dB."""
    scene = pu.simulate_scene(4, (32, 32), n_bands=50, snr_db=30.0, brightness=brightness,
                              correlation_length=correlation_length, seed=seed)
    truth = scene.reference.endmembers.values.astype(np.float64)
    random = np.random.default_rng(100 + seed)
    sds = SD * np.sqrt(np.mean(truth**2, axis=1))
    # Truth minus a draw from the prior around zero: seen from there, the truth is a draw from the prior.
    centre = truth - np.stack([smooth_scale_tril(scene.wavelengths, 50, sd).double().numpy() @ random.standard_normal(50)
                               for sd in sds])
    model = pu.UnmixingModel(4, endmembers=informed_endmembers(centre, scene, 4, sd=SD))
    fit = pu.fit(model, scene, seed=seed, config=pu.FitConfig(**settings), progress=False)
    found = pu.evaluate(fit.posterior(scene).summary(), scene.reference).coverage_90
    print(f"brightness {brightness}, correlation length {correlation_length}, seed {seed}, {settings or 'default'}: {found:.3f}")
    return found


def holds(found: float) -> bool:
    return BOUNDS[0] <= found <= BOUNDS[1]


@pytest.mark.xfail(strict=True, reason="neighbours that resemble each other are taken for independent witnesses")
@pytest.mark.parametrize("brightness", [0.2, 0.0])
def test_intervals_hold_the_truth_of_smooth_fields(brightness):
    """Correlation length 4, which the model does not know of. Seeds 0 to 2: 0.793 to 0.870 with brightness, 0.708 to 0.856
    without; exact draws of pixels given the shared ones hold as much as the guide, so it is the shared ones that are too sure."""
    assert holds(np.mean([coverage(brightness, seed) for seed in SEEDS]))


@pytest.mark.parametrize("brightness", [0.2, 0.0])
def test_intervals_hold_the_truth_of_independent_pixels(brightness):
    """As the model has them: neighbours that resemble each other are fewer witnesses of what all share than it believes. Seeds 0
    to 2: 0.896 to 0.918 with brightness, 0.875 to 0.922 without."""
    assert 0.87 < np.mean([coverage(brightness, seed, 0.0) for seed in SEEDS]) < 0.93


def test_negative_control_the_elbo_alone_is_overconfident():
    """A Dirichlet without calibration fails the same check. Over 12 seeds: 0.281 to 0.663, so that no mean of three
    of them reaches 0.65."""
    found = [coverage(0.2, seed, calibration_steps=0, sampling_steps=0) for seed in SEEDS]
    assert not holds(np.mean(found)) and np.mean(found) < 0.7
    assert all(before < coverage(0.2, seed) - 0.2 for before, seed in zip(found, SEEDS, strict=True))
