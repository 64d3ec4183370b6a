"""Train a guide on a scene by stochastic variational inference."""

from __future__ import annotations

import hashlib
import math
import os
import pickle
import time
import warnings
from collections.abc import Callable
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import cast

import numpy as np
import pandas as pd
import pyro
import torch
from pyro import poutine
from pyro.infer import Trace_ELBO, TraceMeanField_ELBO
from torch import Tensor, nn
from torch.distributions import Distribution

from pyro_unmix.errors import FitDiverged, InputError, UnmixWarning
from pyro_unmix.guide import UnmixingGuide
from pyro_unmix.initialize import Start, initialize
from pyro_unmix.io.files import atomic_path
from pyro_unmix.model import UnmixingModel
from pyro_unmix.numerics import flush_denormals, one_thread, seeded
from pyro_unmix.posterior import Posterior
from pyro_unmix.progress import StageProgress
from pyro_unmix.scene import Scene
from pyro_unmix.tiles import Tiles, Tiling
from pyro_unmix.transfer import simulated

_HISTORY = ["step", "stage", "elbo_loss", "guide_loss", "gradient_norm", "seconds"]


@dataclass(frozen=True)
class FitConfig:
    """How to train. Every field has a default that is meant to be left alone.

    Attributes
    ----------
    svi_steps, calibration_steps
        Most steps of SVI, and steps of training on pairs simulated from the fitted model.
    learning_rate
        Of Adam, at the beginning of each stage; it falls to a twentieth along a cosine.
    clip_norm
        Largest norm of a gradient (of the loss per pixel).
    tile_size, tiles_per_step
        Rows and columns of a tile without its context; tiles in a step.
    kl_warmup_steps
        Steps of SVI over which the weight of the pixels' divergence from their priors rises to one.
    window, tolerance
        SVI stops early when the mean loss of a window of steps is less than `tolerance` (nats per pixel) below the window before.
    checkpoint_every
        Steps between checkpoints, where one is asked for.
    device
        "auto" (a GPU if there is one), "cpu" or "cuda".
    """

    svi_steps: int = 400
    calibration_steps: int = 300
    learning_rate: float = 3e-3
    clip_norm: float = 10.0
    tile_size: int = 48
    tiles_per_step: int = 2
    kl_warmup_steps: int = 100
    window: int = 100
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
    history
        Columns step, stage, elbo_loss (nats per pixel, stage "svi"), guide_loss (-log q, nats per pixel, stage
        "calibrate"), gradient_norm, seconds.
    seconds
        Per stage.
    calibrated
        Whether training on simulated pairs ran to its end; without it intervals are too narrow.
    interrupted
        True where training was stopped by Ctrl-C.
    """

    model: UnmixingModel
    guide: UnmixingGuide
    names: list[str] | None = None
    wavelengths: np.ndarray | None = None
    config: FitConfig = field(default_factory=FitConfig)
    seed: int = 0
    scene_name: str = ""
    history: pd.DataFrame = field(default_factory=lambda: pd.DataFrame(columns=_HISTORY))
    seconds: dict[str, float] = field(default_factory=dict)
    calibrated: bool = False
    interrupted: bool = False

    def __post_init__(self):
        self.names = _endmember_names(self.names, self.model.n_endmembers)

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
    checkpoint: str | os.PathLike | None = None,
    resume: bool = False,
    progress: bool = True,
) -> Fit:
    """Fit a model to a scene.

    Open parts of the model are filled from the scene (`initialize`), the guide starts at the least-squares estimate, is
    trained by SVI, and at last on pairs simulated from the fitted model, which is what makes its intervals honest.

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
    checkpoint
        File to keep the state of training in, replaced atomically and removed at the end.
    resume
        Go on from `checkpoint` if it is there and belongs to this fit.
    progress
        Show a bar, or lines in a log.

    Raises
    ------
    InputError
        The scene or the settings cannot be used.
    FitDiverged
        A value is not finite; the error names the site and the step.
    """
    config = config or FitConfig()
    guide = UnmixingGuide(guide) if isinstance(guide, str) else guide
    device = config.torch_device()
    names = _endmember_names(names, model.n_endmembers)
    with seeded(seed), flush_denormals(), pyro.get_param_store().scope(), \
            StageProgress(progress) as bar:
        began = time.perf_counter()
        bar.stage("initialize", 1)
        model, start = initialize(model, scene, seed=seed)
        bar.advance()
        trainer = _Trainer(model, guide, scene, start, config, device, bar, Path(checkpoint) if checkpoint else None)
        trainer.seconds["initialize"] = time.perf_counter() - began
        if resume:
            trainer.restore(seed)
        trainer.run(seed)
    if trainer.interrupted:
        warnings.warn(f"training was interrupted in stage '{trainer.stage}'; the result is what had been learned by then",
                      UnmixWarning, stacklevel=2)
    return Fit(
        model=trainer.model.cpu(),
        guide=trainer.guide.cpu(),
        names=names,
        wavelengths=scene.wavelengths,
        config=config,
        seed=seed,
        scene_name=scene.name,
        history=pd.DataFrame(trainer.history, columns=_HISTORY),
        seconds=trainer.seconds,
        calibrated=config.calibration_steps > 0 and not trainer.interrupted,
        interrupted=trainer.interrupted,
    )


def _endmember_names(names: list[str] | None, k: int) -> list[str]:
    if names is None:
        return [f"endmember {number + 1}" for number in range(k)]
    if len(names) != k:
        raise InputError(f"{k} endmember names", f"{len(names)}")
    if len(set(names)) < k:
        raise InputError("endmember names that differ", ", ".join(names))
    return list(names)


class _Trainer:
    """Two stages over the same guide, one optimiser each, one step of any of them resumable."""

    def __init__(self, model: UnmixingModel, guide: UnmixingGuide, scene: Scene, start: Start, config: FitConfig,
                 device: torch.device, bar: StageProgress, checkpoint: Path | None):
        self.config, self.bar, self.checkpoint = config, bar, checkpoint
        self.model = model.to(device)
        self.guide = guide.bind(start).to(device)
        self.elbo = choose_elbo(self.model, self.guide)(self.model, self.guide)
        self.tiling = Tiling(scene, config.tile_size, self.guide.halo, device)
        self.n_pixels = scene.n_pixels
        self.stages: dict[str, tuple[int, Callable[[Tiles, int], Tensor]]] = {
            "svi": (config.svi_steps, self._svi_loss),
            "calibrate": (config.calibration_steps, self._calibration_loss),
        }
        self.stage, self.step = "svi", 0
        self.history: list[dict] = []
        self.seconds: dict[str, float] = {}
        self.interrupted = False
        self.optimizer = self._new_optimizer()

    def _new_optimizer(self) -> torch.optim.Optimizer:
        return torch.optim.Adam(self.guide.parameters(), lr=self.config.learning_rate)

    def run(self, seed: int) -> None:
        names = list(self.stages)
        for name in names[names.index(self.stage):]:
            if name != self.stage:
                self.stage, self.step, self.optimizer = name, 0, self._new_optimizer()
            try:
                self._run_stage(seed)
            except KeyboardInterrupt:
                self.interrupted = True
                return
        if self.checkpoint:
            self.checkpoint.unlink(missing_ok=True)

    def _run_stage(self, seed: int) -> None:
        steps, loss_of = self.stages[self.stage]
        self.bar.stage(self.stage, steps, self.step)
        before = self.seconds.get(self.stage, 0.0)
        began = time.perf_counter()
        while self.step < steps and not self._converged():
            for group in self.optimizer.param_groups:
                group["lr"] = self.config.learning_rate * (0.05 + 0.475 * (1 + math.cos(math.pi * self.step / steps)))
            loss, norm = self._train_step(loss_of)
            self.seconds[self.stage] = before + time.perf_counter() - began
            svi = self.stage == "svi"
            self.history.append({"step": len(self.history), "stage": self.stage, "elbo_loss": loss if svi else math.nan,
                                 "guide_loss": math.nan if svi else loss, "gradient_norm": norm,
                                 "seconds": sum(self.seconds.values())})
            self.step += 1
            self.bar.advance(f"loss {loss:.3f}")
            if self.checkpoint and self.step % self.config.checkpoint_every == 0:
                self.save(self.checkpoint, seed)
        self.bar.finish()

    def _train_step(self, loss_of: Callable[[Tiles, int], Tensor]) -> tuple[float, float]:
        tiles = self.tiling.batch(torch.randperm(len(self.tiling))[: self.config.tiles_per_step].tolist())
        self.optimizer.zero_grad()
        try:
            loss = loss_of(tiles, self.step)
            loss.backward()
        except ValueError as error:  # Pyro refuses a parameter that is not finite before any loss is made
            site = first_not_finite(self.model, self.guide, tiles)
            if site is None:
                raise
            raise FitDiverged(site, self.step) from error
        norms = [parameter.grad.norm() for parameter in self.guide.parameters() if parameter.grad is not None]
        if not torch.isfinite(torch.stack([loss.detach(), *norms])).all():
            raise FitDiverged(first_not_finite(self.model, self.guide, tiles) or "loss", self.step)
        norm = nn.utils.clip_grad_norm_(self.guide.parameters(), self.config.clip_norm)
        self.optimizer.step()
        return loss.item(), norm.item()

    def _converged(self) -> bool:
        window = self.config.window
        if self.stage != "svi" or self.step < self.config.kl_warmup_steps + 2 * window or self.step % window:
            return False
        losses = [row["elbo_loss"] for row in self.history[-2 * window :]]
        return np.mean(losses[:window]) - np.mean(losses[window:]) < self.config.tolerance

    def _svi_loss(self, tiles: Tiles, step: int) -> Tensor:
        weight = min(1.0, (step + 1) / max(1, self.config.kl_warmup_steps))
        return self.elbo(tiles.weighted(weight)) / self.n_pixels

    def _calibration_loss(self, tiles: Tiles, step: int) -> Tensor:
        tiles, abundances, brightness = simulated(self.model, self.guide, tiles)
        return -self.guide.log_prob(tiles, abundances, brightness).mean()

    def save(self, checkpoint: Path, seed: int) -> None:
        """Keep the state of training; safe against being killed at any moment."""
        state = {"guide": self.guide.state_dict(), "optimizer": self.optimizer.state_dict(), "stage": self.stage,
                 "step": self.step, "history": self.history, "seconds": self.seconds, "random": torch.get_rng_state(),
                 "belongs_to": self._belongs_to(seed)}
        with atomic_path(checkpoint) as path:
            torch.save(state, path)

    def restore(self, seed: int) -> None:
        """Go on from the checkpoint, if there is one.

        Raises
        ------
        InputError
            It belongs to another fit, or cannot be read.
        """
        if self.checkpoint is None or not self.checkpoint.exists():
            return
        try:
            state = torch.load(self.checkpoint, weights_only=True)
            belongs_to = state["belongs_to"]
        except (RuntimeError, pickle.UnpicklingError, EOFError, KeyError) as error:
            raise InputError("a checkpoint of this very fit", f"'{self.checkpoint}', which cannot be read",
                             "remove it, or start again without resume") from error
        if belongs_to != self._belongs_to(seed):
            raise InputError("a checkpoint of this very fit", f"'{self.checkpoint}' of other settings",
                             "use the same scene, K, guide, seed and configuration, or start again without resume")
        self.guide.load_state_dict(state["guide"])
        self.optimizer.load_state_dict(state["optimizer"])
        self.stage, self.step, self.history = state["stage"], state["step"], state["history"]
        self.seconds = state["seconds"]
        torch.set_rng_state(state["random"])

    def _belongs_to(self, seed: int) -> str:
        """Digest of everything that decides how training goes on."""
        digest = hashlib.sha256(f"{seed} {self.config} {self.model} {self.guide}".encode())
        for tensor in (self.tiling.image, *self.model.state_dict().values()):
            digest.update(tensor.cpu().numpy().tobytes())
        return digest.hexdigest()


def choose_elbo(model: UnmixingModel, guide: UnmixingGuide) -> Trace_ELBO:
    """`TraceMeanField_ELBO` where every divergence from a prior is known in closed form, else `Trace_ELBO`."""
    n_bands = guide.endmembers.mean.shape[1]
    k = model.n_endmembers
    device = guide.endmembers.mean.device
    features, estimate = torch.zeros(1, guide.encoder.n_features, device=device), torch.full((1, k), 1 / k, device=device)
    try:
        torch.distributions.kl_divergence(guide.endmembers().to_event(1), model.endmembers(k, n_bands))
        torch.distributions.kl_divergence(guide.head(features, estimate), model.abundances(k))
    except NotImplementedError:
        return Trace_ELBO()
    return TraceMeanField_ELBO()


def first_not_finite(model: nn.Module, guide: nn.Module, tiles: Tiles) -> str | None:
    """Name of the first parameter or Pyro site that holds a value or a gradient that is not finite."""
    for name, parameter in guide.named_parameters():
        if not torch.isfinite(parameter).all():
            return name
    with pyro.validation_enabled(False), torch.no_grad():
        try:
            guide_trace = poutine.trace(guide).get_trace(tiles)
            model_trace = poutine.trace(poutine.replay(model, trace=guide_trace)).get_trace(tiles)
        except (ValueError, RuntimeError):
            return None
        for name, site in [*guide_trace.nodes.items(), *model_trace.nodes.items()]:
            if site["type"] == "sample" and name != "pixel":
                value, distribution = cast(Tensor, site["value"]), cast(Distribution, site["fn"])
                if not torch.isfinite(value).all() or not torch.isfinite(distribution.log_prob(value)).all():
                    return name
    for name, parameter in guide.named_parameters():
        if parameter.grad is not None and not torch.isfinite(parameter.grad).all():
            return f"gradient of {name}"
    return None
