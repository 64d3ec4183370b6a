"""A transferred guide says where a scene is not like simulated ones, and is silent where it is."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from short_fits import quiet_fit
from test_transfer import MODEL, WAVELENGTHS, L, scenes, trained

import pyro_unmix as pu
from pyro_unmix import simulator_check
from pyro_unmix.simulator_check import Discrepancies, Simulated

HELD_OUT = 10**6
STRANGE = 0.4 + 0.3 * np.exp(-((WAVELENGTHS - 1500.0) / 150.0) ** 2)  # nothing like it in the library


@pytest.fixture(scope="module")
def fit():
    return trained(20)


def departures(fit, scene):
    return [each.name for each in fit.posterior(scene).findings() if each.name.endswith("as simulated")]


def altered(scene, change):
    """The scene with other spectra."""
    return pu.Scene(change(scene.reflectance.values.copy()), wavelengths=WAVELENGTHS)


def with_strange_pixels(spectra):
    spectra.reshape(-1, L)[::10] = STRANGE + 0.01 * np.random.default_rng(0).standard_normal(L)
    return spectra


def test_of_scenes_as_simulated_few_are_said_to_differ(fit):
    """One in twenty-four on average, brightness left out; how far 119 scenes reach varies from guide to guide, so that it is more
    than three in twenty of fewer than one guide in a thousand. The others are trusted."""
    found = [list(fit.simulated.compare(Discrepancies.drawn(fit, scenes(HELD_OUT + number)))) for number in range(150)]
    assert sum(map(bool, found)) <= 22
    said = fit.posterior(scenes(HELD_OUT + next(number for number, each in enumerate(found) if not each))).findings()
    assert said[-1].name == "trusted" and "endmember missing" not in {each.name for each in said}


def test_what_was_not_simulated_is_found(fit):
    """Each by its own name, and intervals are a best effort. Control: the scene as it was. That the strange material draws the
    endmembers towards it, which leaves more of all pixels, is no mistake."""
    scene, noise = scenes(HELD_OUT), np.random.default_rng(0).standard_normal((12, 12, L))
    assert departures(fit, scene) == []
    assert "pixels not as simulated" in departures(fit, altered(scene, with_strange_pixels))
    assert "noise not as simulated" in departures(fit, altered(scene, lambda spectra: spectra + 0.1 * noise))
    assert departures(fit, scenes(HELD_OUT, concentration=8.0)) == ["abundances not as simulated"]
    assert fit.posterior(altered(scene, with_strange_pixels)).findings()[-1].name == "best effort"


def test_less_noise_is_not_taken_for_strange_pixels(fit):
    """Materials vary as they do: their part of residuals is larger than that of the noise, and no larger than it was."""
    clean = scenes(HELD_OUT, snr_db=60.0)
    found = Discrepancies.of(fit, clean, 0.6)
    assert found.extreme / found.noise > (fit.simulated.extreme / fit.simulated.noise).max()
    assert departures(fit, clean) == ["noise not as simulated"]


def test_brightness_that_varies_more_is_found():
    bright = trained(2, model=MODEL.replace(brightness="pixel"), guide="mlp", make=lambda seed: scenes(seed, brightness=0.1))
    assert departures(bright, scenes(HELD_OUT, brightness=0.1)) == []
    assert "brightness not as simulated" in departures(bright, scenes(HELD_OUT, brightness=0.4))


def test_each_end_has_its_finding():
    """Numbers within, and beyond either end, of those of ten scenes."""
    ten = torch.arange(1.0, 11.0, dtype=torch.float64)
    simulated = Simulated(noise=ten, extreme=2 * ten, purity=ten / 20, shading=ten / 100)
    within = Discrepancies(noise=5.0, extreme=9.0, purity=0.3, shading=0.05)

    def names(**other):
        return [each.name.removesuffix(" not as simulated") for each in simulated.compare(within._replace(**other))]

    assert names() == []
    assert names(noise=10.5) == ["noise"] and names(noise=0.5, extreme=1.0) == ["noise"]
    assert names(extreme=10.5) == ["pixels"] and names(purity=0.04) == names(purity=0.6) == ["abundances"]
    assert names(shading=0.11) == ["brightness"] and names(shading=0.001) == []


def test_numbers_do_not_grow_with_the_scene(fit):
    """One of four times as many pixels, small as those that were simulated are."""
    pieces = [[scenes(HELD_OUT + 2 * row + col).reflectance.values for col in range(2)] for row in range(2)]
    large = pu.Scene(np.concatenate([np.concatenate(row, axis=1) for row in pieces]), wavelengths=WAVELENGTHS)
    assert departures(fit, large) == []
    found = Discrepancies.of(fit, large, 0.6)
    assert abs(found.noise - fit.simulated.noise.mean()) < 3 * fit.simulated.noise.std()


def test_of_a_large_scene_pixels_spread_over_it_are_looked_at(fit, monkeypatch):
    scene = scenes(HELD_OUT)
    every = Discrepancies.of(fit, scene, 0.6)
    monkeypatch.setattr(simulator_check, "LOOKED_AT", 72)
    half = Discrepancies.of(fit, scene, 0.6)
    assert half.noise != every.noise and half.noise == pytest.approx(every.noise, rel=0.1)


def test_a_saved_guide_finds_the_same(fit, tmp_path):
    scene = altered(scenes(HELD_OUT), with_strange_pixels)
    pu.save_run(tmp_path / "run", fit, fit.posterior(scene))
    again = pu.load_fit(tmp_path / "run")
    assert len(again.simulated.noise) == simulator_check.SCENES
    assert all(torch.equal(value, getattr(again.simulated, name)) for name, value in vars(fit.simulated).items())
    assert again.posterior(scene).findings() == fit.posterior(scene).findings()
    assert "one pixel in twenty" in (tmp_path / "run" / "report.html").read_text().lower()


def test_scenes_to_compare_with_are_not_those_of_training():
    seen = []
    found = trained(5, make=lambda seed: seen.append(seed) or scenes(seed))
    assert len(seen) == len(set(seen)) == 1 + 5 + 5 + simulator_check.SCENES == 11 + len(found.simulated.noise)


def test_a_guide_that_was_not_transferred_or_not_trained_has_nothing_to_compare_with(fit, fit_scene, fit_model):
    """And goes on saying what residuals say."""
    assert quiet_fit(fit_model, fit_scene).simulated is None and trained(0).simulated is None
    strange, without = altered(scenes(HELD_OUT), with_strange_pixels), replace(fit, simulated=None)
    assert departures(without, strange) == []
    assert "endmember missing" in {each.name for each in without.posterior(strange).findings()}
