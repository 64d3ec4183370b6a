"""What is believed before the scene is seen: priors of abundances and of endmembers.

An abundance prior is any callable that takes the number of endmembers and returns a Pyro distribution on the simplex, or such
a distribution itself. An endmember prior is a distribution over `(n_endmembers, n_bands)`, or a callable that takes
these two numbers.
"""

from pyro_unmix.priors.abundances import Dirichlet, LogisticNormal, Sparse
from pyro_unmix.priors.checks import CustomPrior, as_prior, check_abundance_prior, check_endmember_prior
from pyro_unmix.priors.endmembers import (
    FixedEndmembers,
    GPEndmembers,
    LogNormalEndmembers,
    MVNEndmembers,
    library_endmembers,
    smooth_scale_tril,
)
from pyro_unmix.priors.spatial import SpatialDirichlet

__all__ = [
    "CustomPrior", "Dirichlet", "FixedEndmembers", "GPEndmembers", "LogNormalEndmembers", "LogisticNormal",
    "MVNEndmembers", "Sparse", "SpatialDirichlet", "as_prior", "check_abundance_prior", "check_endmember_prior",
    "library_endmembers", "smooth_scale_tril",
]
