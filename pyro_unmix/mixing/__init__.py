"""How materials combine into one spectrum: one file a kind.

A mixing is any module that takes abundances and endmembers to spectra; those here are `Mixing`. All but `Linear` need
reflectance, about 0 to 1: products of spectra depend on the unit.
"""

from collections.abc import Callable
from functools import partial

from torch import nn

from pyro_unmix.mixing.base import CoefficientMixing, Mixing, is_open
from pyro_unmix.mixing.bilinear import Fan, GeneralizedBilinear
from pyro_unmix.mixing.hapke import Hapke
from pyro_unmix.mixing.linear import Linear
from pyro_unmix.mixing.post_nonlinear import PostNonlinear

__all__ = ["CoefficientMixing", "Fan", "GeneralizedBilinear", "Hapke", "Linear", "MIXINGS", "Mixing", "PostNonlinear", "is_open",
           "n_directions"]

# By the names of the command line, with coefficients that matter.
MIXINGS: dict[str, Callable[[], Mixing]] = {
    "linear": Linear, "fan": Fan, "gbm": partial(GeneralizedBilinear, 0.5), "ppnm": partial(PostNonlinear, 0.3), "hapke": Hapke}


def n_directions(mixing: nn.Module, n_endmembers: int, n_bands: int) -> int:
    """In how many directions the mixtures of endmembers lie: as many as these where mixing is linear; about as many more as there
    are products of two where it is not, but no more than half of the bands."""
    if isinstance(mixing, Linear):
        return n_endmembers
    return max(n_endmembers, min(n_endmembers + n_endmembers * (n_endmembers + 1) // 2, n_bands // 2))
