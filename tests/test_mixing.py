"""How materials combine."""

from __future__ import annotations

import numpy as np
import torch

from pyro_unmix.mixing import Linear


def test_linear_mixing_is_the_weighted_mean():
    random = np.random.default_rng(0)
    abundances, endmembers = random.dirichlet(np.ones(3), 5), random.uniform(size=(3, 7))
    mixed = Linear()(torch.as_tensor(abundances), torch.as_tensor(endmembers)).numpy()
    by_hand = [[sum(z[k] * endmembers[k, band] for k in range(3)) for band in range(7)] for z in abundances]
    np.testing.assert_allclose(mixed, by_hand)


def test_pure_pixels_are_endmembers():
    endmembers = torch.rand(3, 7)
    torch.testing.assert_close(Linear()(torch.eye(3), endmembers), endmembers)


def test_batches_of_draws_are_mixed_one_by_one():
    abundances, endmembers = torch.rand(2, 4, 3), torch.rand(3, 7)
    mixed = Linear()(abundances, endmembers)
    assert mixed.shape == (2, 4, 7)
    torch.testing.assert_close(mixed[1, 2], abundances[1, 2] @ endmembers)


def test_there_is_nothing_to_learn():
    assert not list(Linear().parameters()) and not Linear().state_dict() and Linear().settings == {}
