"""Train a guide on a scene by stochastic variational inference."""

from __future__ import annotations

import math
import os
import time
import warnings
from dataclasses import dataclass, field, fields
from pathlib import Path

import numpy as np
import pandas as pd
import pyro
import torch
import xarray as xr

from pyro_unmix.errors import InputError, UnmixWarning
from pyro_unmix.guide import UnmixingGuide
from pyro_unmix.initialize import initialize
from pyro_unmix.labels import check_labels
from pyro_unmix.model import UnmixingModel
from pyro_unmix.numerics import flush_denormals, one_thread, repeatable, seeded
from pyro_unmix.posterior import Posterior
from pyro_unmix.processes import together
from pyro_unmix.progress import StageProgress
from pyro_unmix.refine.shared import Shared
from pyro_unmix.scene import Scene
from pyro_unmix.simulator_check import Simulated
from pyro_unmix.training import Trainer

_HISTORY = ["step", "stage", "elbo_loss", "guide_loss", "gradient_norm", "seconds"]


@dataclass(frozen=True)
class FitConfig:
    """How to train. Every field has a default that is meant to be left alone.

    Attributes
    ----------
    svi_steps, calibration_steps
        Most steps of SVI, and steps of training on pairs simulated from the fitted model.
    sampling_steps
        Of Gibbs sampling, where exact draws are what is simulated from; 0 simulates from the guide instead.
    learning_rate
        Of Adam, at the beginning of each stage; it falls to a twentieth along a cosine.
    clip_norm
        Largest norm of a gradient (of the loss per pixel).
    tile_size, tiles_per_step
        Rows and columns of a tile without its context; tiles in a step, divided among the processes that train together.
    kl_warmup_steps
        Steps of SVI over which the weight of the pixels' divergence from their priors rises to one.
    window, tolerance
        SVI stops early when the mean loss of a window of steps is less than `tolerance` (nats per pixel) below the window before.
    checkpoint_every
        Steps between checkpoints, where one is asked for.
    device
        "auto" (a GPU if there is one), "cpu" or "cuda".
    """

    svi_steps: int = 100
    calibration_steps: int = 200
    sampling_steps: int = 1250
    learning_rate: float = 3e-3
    clip_norm: float = 10.0
    tile_size: int = 48
    tiles_per_step: int = 2
    kl_warmup_steps: int = 50
    window: int = 50
    tolerance: float = 0.05
    checkpoint_every: int = 100
    device: str = "auto"

    def __post_init__(self):
        for setting in fields(self):
            value, name = getattr(self, setting.name), setting.name
            if name == "device":
                if value not in ("auto", "cpu", "cuda"):
                    raise InputError("device auto, cpu or cuda", f"'{value}'")
            elif isinstance(value, bool) or not isinstance(value, (int, float)) or not math.isfinite(value):
                raise InputError(f"a number for {name}", f"{value!r}")
            elif setting.type == "int" and not isinstance(value, int):
                raise InputError(f"a whole number for {name}", f"{value!r}")
            elif value < 0 or (value == 0 and not name.endswith("_steps") and name != "tolerance"):
                raise InputError(f"a positive {name}", f"{value!r}")

    @classmethod
    def from_dict(cls, values: dict) -> FitConfig:
        """Build from a mapping (a TOML file), refusing names that do not exist."""
        known = [setting.name for setting in fields(cls)]
        if unknown := sorted(set(values) - set(known)):
            raise InputError(f"settings among {', '.join(known)}", ", ".join(unknown))
        return cls(**values)

    def torch_device(self) -> torch.device:
        if self.device == "cuda" and not torch.cuda.is_available():
            raise InputError("a CUDA device", "a machine without one", "use device 'cpu' or 'auto'")
        return torch.device("cuda" if self.device == "cuda" or (self.device == "auto" and torch.cuda.is_available()) else "cpu")


@dataclass
class Fit:
    """A trained model and guide, and how they came about. `Fit(model, guide)` does for a pair trained by hand.

    Attributes
    ----------
    model, guide
        With every part filled in.
    names
        Of the endmembers. None: "endmember 1", ...
    wavelengths
        `(n_bands,)` nm, or None.
    scene_digest
        `Scene.digest` of the scene fitted: which pixels have been seen. Empty where it is not known.
    history
        Columns step, stage, elbo_loss (nats per pixel, stage "svi"), guide_loss (-log q, nats per pixel, stage
        "calibrate"), gradient_norm, seconds.
    seconds
        Per stage.
    calibrated
        Whether training on simulated pairs ran to its end; without it intervals are too narrow.
    interrupted
        True where training was stopped by Ctrl-C.
    shared
        Draws of endmembers and what else pixels share, from their joint posterior, where there are exact draws.
    simulated
        How simulated scenes look that a transferred guide was not trained on. None: it was not transferred.
    """

    model: UnmixingModel
    guide: UnmixingGuide
    names: list[str] | None = None
    wavelengths: np.ndarray | None = None
    config: FitConfig = field(default_factory=FitConfig)
    seed: int = 0
    scene_name: str = ""
    scene_digest: str = ""
    history: pd.DataFrame = field(default_factory=lambda: pd.DataFrame(columns=_HISTORY))
    seconds: dict[str, float] = field(default_factory=dict)
    calibrated: bool = False
    interrupted: bool = False
    shared: Shared | None = None
    simulated: Simulated | None = None

    def __post_init__(self):
        self.names = endmember_names(self.names, self.model.n_endmembers)

    def posterior(self, scene: Scene) -> Posterior:
        """The posterior of a scene: the one fitted, or another of the same sensor, in one forward pass."""
        return Posterior(self, scene)


@one_thread()
def fit(
    model: UnmixingModel,
    scene: Scene,
    *,
    guide: str | UnmixingGuide = "spacnn",
    seed: int = 0,
    config: FitConfig | None = None,
    names: list[str] | None = None,
    labels: np.ndarray | xr.DataArray | None = None,
    mse_weight: float = 0.0,
    checkpoint: str | os.PathLike | None = None,
    resume: bool = False,
    progress: bool = True,
) -> Fit:
    """Fit a model to a scene.

    Open parts of the model are filled from the scene (`initialize`), the guide starts at the least-squares estimate, is
    trained by SVI, and at last on pairs simulated from the fitted model, which is what makes its intervals honest.

    Processes that torchrun has started train together where all of them call this, and all have the same result.

    Parameters
    ----------
    model
        Left as it is; the result holds a filled copy.
    scene
        Its reference, if any, is not read.
    guide
        "spacnn", "cnn", "mlp", or an `UnmixingGuide` (left as it is).
    seed
        Same seed, same result on the same machine. The state of the caller's random numbers is left alone.
    names
        Of the endmembers. None: "endmember 1", ...
    labels
        `(y, x, n_endmembers)`: abundances of pixels where they are known, NaN elsewhere. They are observed in the model, say what
        the endmembers are if that is open, and are the pairs that the guide learns from at last where there are no exact draws.
        Their names are those of the endmembers, if no others are given.
    mse_weight
        Of the mean squared error of the mean abundances, added to both losses, in SVI that of labelled pixels and at last that of
        the pairs: the supervision of Chitnis, Mantripragada and Qureshi (2023), arXiv 2311.10701.
    checkpoint
        File to keep the state of training in, replaced atomically. Yours to remove when the result is saved.
    resume
        Go on from `checkpoint` if it is there and belongs to this fit; of one that is finished nothing is done again.
    progress
        Show a bar, or lines in a log.

    Raises
    ------
    InputError
        The scene or the settings cannot be used.
    FitDiverged
        A value is not finite; the error names the site and the step.
    ProcessLost
        Another of the processes that train together has stopped.
    """
    if not mse_weight >= 0 or (mse_weight and labels is None):
        raise InputError("an mse_weight of zero or more, and labels with it", f"{mse_weight}" + " and none" * (labels is None))
    if names is None and isinstance(labels, xr.DataArray) and "endmember" in labels.coords:
        names = [str(name) for name in labels.endmember.values]
    config = config or FitConfig()
    guide = UnmixingGuide(guide) if isinstance(guide, str) else guide
    if model.n_endmembers != "auto":
        names = endmember_names(names, model.n_endmembers)
    with (seeded(seed), flush_denormals(), pyro.get_param_store().scope(), together(config.torch_device()) as processes,
          repeatable(processes.device), StageProgress(progress and processes.first) as bar):
        began = time.perf_counter()
        bar.stage("initialize", 1)
        model, start = initialize(model, scene, seed=seed, labels=labels)
        if labels is not None:
            labels = check_labels(labels, scene, model.n_endmembers)
        names = endmember_names(names, model.n_endmembers)
        bar.advance()
        trainer = Trainer(model, guide, scene, start, config, processes, bar, Path(checkpoint) if checkpoint else None,
                          seed, labels=labels, mse_weight=mse_weight)
        trainer.seconds["initialize"] = time.perf_counter() - began
        processes.agree(lambda: f"{trainer.belongs_to()} {checkpoint is None} {resume}")
        if resume:
            trainer.restore()
        trainer.run()
    return finished(trainer, scene, names)


def finished(trainer: Trainer, scene: Scene, names: list[str] | None) -> Fit:
    """What a trainer has made; `scene` is the one it began with. Warns where training was interrupted."""
    if trainer.interrupted:
        warnings.warn(f"training was interrupted in stage '{trainer.stage}'; the result is what had been learned by then",
                      UnmixWarning, stacklevel=3)
    return Fit(
        model=trainer.model.cpu(),
        guide=trainer.guide.cpu(),
        names=names,
        wavelengths=scene.wavelengths,
        config=trainer.config,
        seed=trainer.seed,
        scene_name=scene.name,
        scene_digest=scene.digest(),
        history=pd.DataFrame(trainer.history, columns=_HISTORY),
        seconds=trainer.seconds,
        calibrated=trainer.config.calibration_steps > 0 and not trainer.interrupted,
        interrupted=trainer.interrupted,
        shared=trainer.shared if trainer.exact else None,
    )


def endmember_names(names: list[str] | None, k: int) -> list[str]:
    """These, or numbers where they are None; refused where they are not `k` that differ."""
    if names is None:
        return [f"endmember {number + 1}" for number in range(k)]
    if len(names) != k:
        raise InputError(f"{k} endmember names", f"{len(names)}")
    if len(set(names)) < k:
        raise InputError("endmember names that differ", ", ".join(names))
    return list(names)
