"""Candidates for the endmembers: the evidence that decides between them."""

from __future__ import annotations

import pytest

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
