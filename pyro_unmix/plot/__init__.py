"""Figures of a result: its abundances, its endmembers, how sure it is and whether to believe that. And of methods in comparison.

Each function returns the figure: save it with `figure.savefig(...)`. In a notebook it is shown once.
"""

from pyro_unmix.plot.calibration import coverage
from pyro_unmix.plot.confidence import confidence_maps
from pyro_unmix.plot.experiment import experiment
from pyro_unmix.plot.maps import abundance_maps, compare_maps, exceedance
from pyro_unmix.plot.methods import benchmark
from pyro_unmix.plot.one_pixel import pixel
from pyro_unmix.plot.quality import trust, uncertainty
from pyro_unmix.plot.spectra import endmembers
from pyro_unmix.plot.training import loss

__all__ = [
    "abundance_maps", "benchmark", "compare_maps", "confidence_maps", "coverage", "endmembers", "exceedance", "experiment",
    "loss", "pixel", "trust", "uncertainty",
]
