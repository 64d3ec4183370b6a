"""The guide alone is calibrated where endmembers are known, and a guide that is too sure of itself is found out.

Pixels are drawn from the model, independent of each other and each with abundances from the flat prior, so that every pixel is
a replicate of simulation-based calibration: ranks of truth among draws are uniform. What is shared by the pixels is known or
learned from all of them, which 576 pixels make exact enough.
"""

from __future__ import annotations

from functools import cache

import numpy as np
import pytest
import torch

import pyro_unmix as pu
from pyro_unmix.diagnostics import coverage_curve, sbc_ranks, uniformity
from pyro_unmix.distributions import SimplexNormal
from pyro_unmix.priors import MVNEndmembers, smooth_scale_tril
from pyro_unmix.simulate import absorption_spectra

pytestmark = pytest.mark.statistical

N_BANDS, SIDE, DRAWS = 60, 24, 99


@cache
def fitted(k: int, snr_db: float, brightness: float):
    """A fit of default settings to a scene whose endmembers are known, and the true abundances `(n, k)`."""
    random = np.random.default_rng([k, int(snr_db)])
    wavelengths = np.linspace(400.0, 2500.0, N_BANDS)
    endmembers = absorption_spectra(k, wavelengths, random)
    abundances = random.dirichlet(np.ones(k), SIDE**2)
    signal = np.exp(brightness * random.standard_normal(SIDE**2))[:, None] * (abundances @ endmembers)
    noise_sd = np.sqrt(np.mean(signal**2) / 10 ** (snr_db / 10))
    pixels = signal + noise_sd * random.standard_normal(signal.shape)
    scene = pu.Scene(pixels.reshape(SIDE, SIDE, N_BANDS), wavelengths=wavelengths)
    known = smooth_scale_tril(wavelengths, N_BANDS, 1e-4 * np.sqrt(np.mean(endmembers**2)))
    model = pu.UnmixingModel(k, endmembers=MVNEndmembers(endmembers, known.expand(k, -1, -1)),
                             brightness="pixel" if brightness else "none")
    return pu.fit(model, scene, seed=0, progress=False), scene, abundances


def draws_of_guide(k: int, snr_db: float, brightness: float, precision: float = 1.0) -> tuple[np.ndarray, np.ndarray]:
    """Draws `(DRAWS, n, k)` and truth; `precision` multiplies that of every conditional of the guide."""
    fit, scene, abundances = fitted(k, snr_db, brightness)
    with torch.no_grad(), pu.numerics.seeded(1):
        q, _ = fit.guide.pixels(pu.whole(scene))
        assert isinstance(q, SimplexNormal)
        sure = SimplexNormal(q.loc, q.coefficients, q.scale / precision**0.5, q.order, q.concentration)
        return sure.sample(torch.Size([DRAWS])).numpy(), abundances


@pytest.mark.parametrize(("k", "snr_db", "brightness"), [(3, 30.0, 0.0), (4, 20.0, 0.2), (6, 30.0, 0.2)])
def test_coverage_and_ranks(k, snr_db, brightness):
    """Coverage of 576 k abundances has a binomial standard deviation of about .01 a scene: 3.5 of them are allowed. The smallest
    of k p-values is below .001 in k of a thousand correct runs."""
    draws, truth = draws_of_guide(k, snr_db, brightness)
    found = coverage_curve(draws, truth, (0.5, 0.9))
    p_values = uniformity(sbc_ranks(draws, truth), DRAWS)
    print(f"K {k}, {snr_db} dB, brightness {brightness}: {found.overall.values.round(3)}, p {p_values.round(3)}")
    assert abs(found.overall.values[1] - 0.9) < 0.035 and abs(found.overall.values[0] - 0.5) < 0.06
    assert p_values.min() > 1e-3


def test_negative_control_five_times_the_precision_is_found_out():
    """Standard deviations divided by the root of five cover about .54 at nominal .9."""
    draws, truth = draws_of_guide(3, 30.0, 0.0, precision=5.0)
    found = coverage_curve(draws, truth, (0.5, 0.9))
    p_values = uniformity(sbc_ranks(draws, truth), DRAWS)
    print(f"five times the precision: {found.overall.values.round(3)}, p {p_values}")
    assert found.overall.values[1] < 0.7 and found.overall.values[0] < 0.35
    assert p_values.max() < 1e-6
