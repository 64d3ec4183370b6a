"""Parts are written down and made again; parts of the user's own are noted as such."""

from __future__ import annotations

import json

import numpy as np
import pyro.distributions as dist
import pytest
import torch
from torch import nn

from pyro_unmix import mixing
from pyro_unmix.components import describe, restore
from pyro_unmix.encoders import ConvEncoder, PixelEncoder, SpatialAttentionEncoder
from pyro_unmix.errors import InputError
from pyro_unmix.heads import DirichletHead
from pyro_unmix.mixing import Fan, GeneralizedBilinear, Hapke, Linear, PostNonlinear
from pyro_unmix.noise import DiagonalNoise, PixelBrightness
from pyro_unmix.priors import CustomPrior, Dirichlet, MVNEndmembers, as_prior

PARTS = [
    Dirichlet(0.3), Dirichlet([0.5, 2.0]), Linear(), Fan(), GeneralizedBilinear(), GeneralizedBilinear(0.4), PostNonlinear(-0.2),
    Hapke(45.0, 10.0), PixelBrightness(), PixelBrightness(0.2),
    DiagonalNoise(spread=0.5, floor=1e-3), PixelEncoder(width=8), ConvEncoder(depth=3), SpatialAttentionEncoder(window=5),
    DirichletHead(floor=0.5),
]


@pytest.mark.parametrize("part", PARTS, ids=lambda part: type(part).__name__)
def test_a_part_survives_being_written_down(part):
    again = restore(json.loads(json.dumps(describe(part))))
    assert type(again) is type(part) and again is not part and again.settings == part.settings
    assert describe(again) == describe(part)
    for name, value in part.state_dict().items():
        torch.testing.assert_close(again.state_dict()[name], value, equal_nan=True)


def test_no_part_is_no_part():
    assert describe(None) is None and restore(None) is None


class Own(Dirichlet):
    """A prior of the user's, in a module of the user's."""


@pytest.mark.parametrize("part", [as_prior(lambda k: dist.Dirichlet(torch.ones(k))), Own(), nn.Linear(2, 3)],
                         ids=["callable", "subclass", "module"])
def test_a_part_of_the_users_own_is_noted_and_has_to_be_given_again(part):
    description = describe(part)
    assert description == {"custom": type(part).__name__}
    with pytest.raises(InputError, match="give the model or guide that was fitted"):
        restore(description)


def test_a_custom_prior_is_never_made_from_a_file():
    assert describe(CustomPrior(dist.Dirichlet(torch.ones(2)))) == {"custom": "CustomPrior"}


@pytest.mark.parametrize("description", [
    {}, {"class": "Kubelka"}, {"class": "Tensor"}, {"class": "InputError", "expected": "a", "got": "b"}, {"class": "nn"},
    {"class": "smooth_scale_tril", "wavelengths": None, "n_bands": 3, "sd": 1.0}, {"class": "Linear", "order": 2},
    {"class": "PixelEncoder", "width": 0}, {"class": None}, {"class": "MVNEndmembers"},
], ids=str)
def test_what_this_version_cannot_make_is_refused(description):
    with pytest.raises(InputError) as caught:
        restore(description)
    assert "\n" not in str(caught.value)


def test_arrays_are_not_written_down():
    assert describe(MVNEndmembers(np.ones((2, 5)), np.eye(5))) == {"class": "MVNEndmembers"}
    assert "scale" not in describe(DiagonalNoise([0.1, 0.2]))


def test_a_new_part_needs_no_other_change(monkeypatch):
    class Square(nn.Module):
        def __init__(self, power: int = 2):
            super().__init__()
            self.settings = {"power": power}

    Square.__module__ = mixing.__name__
    monkeypatch.setattr(mixing, "Square", Square, raising=False)
    again = restore(describe(Square(3)))
    assert isinstance(again, Square) and again.settings == {"power": 3}
