"""How a spectrum departs from its mixture."""

from __future__ import annotations

import json
import math

import numpy as np
import pytest
import torch
from scipy import stats

from pyro_unmix.errors import InputError
from pyro_unmix.noise import DiagonalNoise, PixelBrightness


def test_brightness_is_log_normal_around_one():
    made = PixelBrightness(0.25).prior()
    assert made.batch_shape == made.event_shape == ()
    draws = made.sample(torch.Size([4000])).log()
    # Standard errors 0.004 and 0.003.
    assert abs(draws.mean()) < 0.016 and abs(draws.std() - 0.25) < 0.012
    values = torch.tensor([0.5, 1.0, 1.7])
    np.testing.assert_allclose(made.log_prob(values), stats.lognorm.logpdf(values.numpy(), 0.25), rtol=1e-5)


def test_an_open_scale_is_not_a_number():
    assert PixelBrightness().scale.isnan() and DiagonalNoise().scale.isnan()


@pytest.mark.parametrize("scale", [0.0, -0.1, 10.0, math.nan, math.inf])
def test_brightness_scales_that_make_no_sense_are_refused(scale):
    with pytest.raises(InputError, match="brightness scale between 0 and 10"):
        PixelBrightness(scale)


@pytest.mark.parametrize("make", [PixelBrightness, lambda **s: PixelBrightness(**({"scale": np.float32(0.25)} | s)),
                                  lambda **s: DiagonalNoise(**({"scale": 0.1, "spread": 0.5} | s))])
def test_settings_make_the_same_part_again(make):
    part = make()
    settings = json.loads(json.dumps(part.settings))
    again = type(part)(**settings)
    assert again.settings == part.settings
    again.load_state_dict(part.state_dict())
    torch.testing.assert_close(again.scale, part.scale, equal_nan=True)


def test_noise_has_a_log_normal_scale_in_every_band():
    scales = torch.tensor([0.01, 0.02, 0.04, 0.08])
    made = DiagonalNoise(scales, spread=0.5).prior(4)
    assert made.event_shape == (4,) and made.batch_shape == ()
    values = torch.tensor([0.01, 0.03, 0.03, 0.2])
    expected = stats.lognorm.logpdf(values.numpy(), 0.5, scale=scales.numpy()).sum()
    np.testing.assert_allclose(made.log_prob(values), expected, rtol=1e-5)


def test_one_scale_serves_all_bands():
    torch.testing.assert_close(DiagonalNoise(0.02).prior(3).log_prob(torch.full((3,), 0.01)),
                               DiagonalNoise([0.02] * 3).prior(3).log_prob(torch.full((3,), 0.01)))


def test_the_likelihood_is_independent_over_bands():
    mean, scale, spectra = torch.rand(5, 4), torch.tensor([0.1, 0.2, 0.3, 0.4]), torch.rand(5, 4)
    made = DiagonalNoise(0.1).likelihood(mean, scale)
    assert made.batch_shape == (5,) and made.event_shape == (4,)
    expected = stats.norm.logpdf(spectra.numpy(), mean.numpy(), scale.numpy()).sum(axis=1)
    np.testing.assert_allclose(made.log_prob(spectra), expected, rtol=1e-4)


def test_the_floor_bounds_the_density():
    noise = DiagonalNoise(0.1, floor=0.01)
    made = noise.likelihood(torch.zeros(3), torch.tensor([0.0, 1e-30, 0.01]))
    np.testing.assert_allclose(made.variance.sqrt(), [0.01, 0.01, 0.01 * 2**0.5], rtol=1e-6)
    assert torch.isfinite(made.log_prob(torch.zeros(3)))


@pytest.mark.parametrize("settings, complaint", [
    ({"spread": 0.0}, "positive spread"), ({"spread": -1.0}, "positive spread"), ({"spread": math.nan}, "positive spread"),
    ({"floor": 0.0}, "positive floor"), ({"floor": math.nan}, "positive floor"),
    ({"scale": 0.0}, "positive noise scales.*0"), ({"scale": [0.1, -0.2]}, "positive noise scales.*-0.2"),
])
def test_noise_that_makes_no_sense_is_refused(settings, complaint):
    with pytest.raises(InputError, match=complaint):
        DiagonalNoise(**settings)


def test_noise_of_another_number_of_bands_is_refused():
    with pytest.raises(InputError, match=r"5 noise scales, one a band, got shape \(4,\)"):
        DiagonalNoise(np.full(4, 0.1)).prior(5)
