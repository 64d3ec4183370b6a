"""Candidates for the endmembers: the evidence that decides between them."""

from __future__ import annotations

import numpy as np
import pytest

from pyro_unmix import contenders
from pyro_unmix.contenders import evidence_of
from pyro_unmix.simulate import simulate_scene


@pytest.mark.parametrize("brightness", [0.0, 0.2])
def test_evidence_is_greatest_at_the_truth(brightness):
    scene = simulate_scene(5, (24, 24), n_bands=40, snr_db=25, concentration=0.2, correlation_length=0.0, brightness=brightness,
                           seed=3)
    pixels, endmembers = scene.pixels().astype(float), scene.reference.endmembers.values.astype(float)
    middle = endmembers.mean(axis=0)
    moved = endmembers.copy()
    moved[0] = middle
    best, concentration = evidence_of(pixels, endmembers, brightness > 0.0, 0)
    others = [moved, middle + 0.8 * (endmembers - middle), middle + 1.3 * (endmembers - middle)]
    assert all(evidence_of(pixels, each, brightness > 0.0, 0)[0] < best - 0.1 for each in others)
    assert (concentration > 0.1).all() and (concentration < 0.4).all()


@pytest.mark.parametrize("sign, kept", [(1.0, True), (-1.0, False)])
def test_no_endmember_reflects_less_than_nothing(monkeypatch, sign, kept):
    """A simplex around the pixels is no candidate where a corner is negative, however probable it is made to be."""
    scene = simulate_scene(3, (16, 16), n_bands=20, snr_db=30, concentration=2.0, seed=1)
    pixels = scene.pixels().astype(float)
    around = scene.reference.endmembers.values.astype(float) * np.array([[sign], [1.0], [1.0]])
    monkeypatch.setattr(contenders, "_FLAT", 0.0)  # whatever the law of the abundances: of the candidates, the smallest simplex
    monkeypatch.setattr(contenders, "sisal", lambda pixels, k, seed: around)
    monkeypatch.setattr(contenders, "evidence_of", lambda pixels, endmembers, varies, seed:
                        (float(endmembers is around), np.ones(3)))
    found, _, _ = contenders.simplices(pixels, 3, None, seed=0)
    assert np.array_equal(found[0], around) == kept
