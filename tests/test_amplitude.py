"""Amplitudes of endmembers whose shapes are known, and a scatter that outliers do not move."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pyro_unmix.amplitude import brightness_scatter, calibrate_amplitude, spread


@given(st.integers(2, 6), st.integers(0, 1000))
def test_amplitudes_are_recovered_from_most_pixels(k, seed):
    """Nine pixels in ten sum to one on the true scales; one in ten is anything, as a shadow or a glint is."""
    generator = np.random.default_rng(seed)
    true = generator.uniform(0.2, 5, (k, 8)) * generator.uniform(0.1, 10, (k, 1))
    scales = generator.uniform(0.05, 20, k)
    abundances = generator.dirichlet(np.full(k, 0.5), 300)
    abundances[::10] *= generator.uniform(0.2, 3, (30, 1))
    np.testing.assert_allclose(calibrate_amplitude(true / scales[:, None], abundances * scales), true, rtol=0.01)


def test_an_endmember_no_pixel_needs_gets_the_amplitude_of_its_brightest_pixel():
    coefficients = np.c_[np.full(50, 2.0), np.zeros(50)]
    coefficients[0] = 2.0, 1e-9
    calibrated = calibrate_amplitude(np.ones((2, 3)), coefficients)
    np.testing.assert_allclose(calibrated[0], 2.0, rtol=1e-6)
    assert np.isfinite(calibrated).all() and (calibrated > 0).all()
    assert np.isfinite(calibrate_amplitude(np.ones((2, 3)), np.zeros((50, 2)))).all()


def test_spread_is_a_standard_deviation_that_outliers_do_not_move():
    values = np.random.default_rng(0).normal(3.0, 0.2, 4000)
    assert spread(values) == pytest.approx(0.2, rel=0.05)
    values[:400] = 1e6
    assert spread(values) == pytest.approx(0.2, rel=0.2)


@pytest.mark.parametrize("scatter", [0.0, 0.3])
def test_brightness_scatter_is_that_of_the_factors(scatter):
    random = np.random.default_rng(0)
    endmembers, factors = random.uniform(0.1, 1.0, (3, 20)), np.exp(scatter * random.standard_normal(2000))
    pixels = factors[:, None] * random.dirichlet(np.ones(3), 2000) @ endmembers
    assert brightness_scatter(pixels, endmembers) == pytest.approx(scatter, rel=0.1, abs=1e-6)
