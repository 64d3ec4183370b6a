"""Bayesian hyperspectral unmixing in Pyro."""

import importlib
from typing import TYPE_CHECKING, Any

from pyro_unmix import mixing, noise, paper, priors, recipes, variability
from pyro_unmix.compare import compare
from pyro_unmix.datasets import load_dataset
from pyro_unmix.encoders import ConvEncoder, PixelEncoder, SpatialAttentionEncoder
from pyro_unmix.errors import FitDiverged, InputError, ProcessLost, UnmixError, UnmixWarning
from pyro_unmix.fit import Fit, FitConfig, fit
from pyro_unmix.guide import UnmixingGuide
from pyro_unmix.heads import DirichletHead, LogisticNormalHead, SimplexNormalHead, SoftmaxHead
from pyro_unmix.initialize import initialize
from pyro_unmix.io import SceneFile, open_scene, open_scene_file, save_scene
from pyro_unmix.libraries import load_library
from pyro_unmix.library import SpectralLibrary, open_library
from pyro_unmix.metrics import evaluate
from pyro_unmix.model import UnmixingModel
from pyro_unmix.posterior import Posterior
from pyro_unmix.predict import predict
from pyro_unmix.refined import RefinedPosterior, refine
from pyro_unmix.run_folder import load_fit, save_run
from pyro_unmix.scene import Scene
from pyro_unmix.simulate import simulate_scene
from pyro_unmix.tiles import Tiles, Tiling, whole
from pyro_unmix.transfer import transfer

if TYPE_CHECKING:
    from pyro_unmix import plot

__all__ = [
    "ConvEncoder", "DirichletHead", "Fit", "FitConfig", "FitDiverged", "InputError", "LogisticNormalHead", "PixelEncoder",
    "Posterior", "ProcessLost", "RefinedPosterior", "Scene", "SceneFile", "SimplexNormalHead", "SoftmaxHead",
    "SpatialAttentionEncoder", "SpectralLibrary", "Tiles", "Tiling", "UnmixError", "UnmixWarning", "UnmixingGuide",
    "UnmixingModel", "compare", "evaluate", "fit", "initialize", "load_dataset", "load_fit", "load_library", "mixing", "noise",
    "open_library", "open_scene", "open_scene_file", "paper", "plot", "predict", "priors", "recipes", "refine", "save_run",
    "save_scene", "simulate_scene", "transfer", "variability", "whole",
]


def __getattr__(name: str) -> Any:
    """`plot` is imported when it is first asked for: matplotlib takes a while, and most of what is done draws nothing."""
    if name == "plot":
        return importlib.import_module("pyro_unmix.plot")
    raise AttributeError(f"module 'pyro_unmix' has no attribute '{name}'")


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
