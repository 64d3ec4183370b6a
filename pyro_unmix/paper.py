"""SpACNN-LDVAE as its paper has it, for comparison: softmax concentrations, its loss, no calibration.

Chitnis, Mantripragada and Qureshi (2023), "SpACNN-LDVAE: Spatial Attention Convolutional Latent Dirichlet Variational Autoencoder
for Hyperspectral Pixel Unmixing", arXiv 2311.10701. What of it is our reading is in docs/paper.md.

    fit = pu.fit(pu.UnmixingModel(3), scene, guide=pu.paper.guide(), config=pu.paper.CONFIG,
                 labels=labels, mse_weight=pu.paper.MSE_WEIGHT)
"""

from __future__ import annotations

from pyro_unmix.encoders import Encoder
from pyro_unmix.fit import FitConfig
from pyro_unmix.guide import UnmixingGuide

_STEPS = 400
# ELBO and squared error alone. It starts from nothing: more steps, and all of them, for its loss is too noisy to tell when it has
# stopped falling.
CONFIG = FitConfig(svi_steps=_STEPS, window=_STEPS, calibration_steps=0)
# Of the squared error of labelled abundances.
MSE_WEIGHT = 10.0


def guide(encoder: str | Encoder = "spacnn") -> UnmixingGuide:
    """SpACNN-LDVAE, or with "cnn" and "mlp" its relatives: concentrations are a softmax of the features, and so sum to one."""
    return UnmixingGuide(encoder, head="softmax")
