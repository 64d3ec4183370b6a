"""Whole classical methods by name, one signature: scene and number of endmembers in, endmembers and abundances out."""

from pyro_unmix.baselines.archetypes import archetypes
from pyro_unmix.baselines.estimate import Method, with_fcls, with_nnls
from pyro_unmix.baselines.mvsa import mvsa
from pyro_unmix.baselines.nfindr import nfindr
from pyro_unmix.baselines.sgsnmf import sgsnmf
from pyro_unmix.baselines.sisal import sisal
from pyro_unmix.baselines.sivm import sivm
from pyro_unmix.baselines.spa import spa
from pyro_unmix.baselines.tv_rsnmf import tv_rsnmf
from pyro_unmix.baselines.vca import vca

METHODS: dict[str, Method] = {
    "vca": with_fcls(vca),
    "vca-nnls": with_nnls(vca),
    "nfindr": with_fcls(nfindr),
    "spa": with_fcls(spa),
    "sivm": with_fcls(sivm),
    "sisal": with_fcls(sisal),
    "mvsa": with_fcls(mvsa),
    "archetypes": with_fcls(archetypes),
    "archetypes-nnls": with_nnls(archetypes),
    "sgsnmf": sgsnmf,
    "tv-rsnmf": tv_rsnmf,
}
