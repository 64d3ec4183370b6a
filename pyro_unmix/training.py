"""The loop of training: stages, steps, checkpoints, and what to say when a number is no number."""

from __future__ import annotations

import copy
import hashlib
import io
import math
import time
import warnings
from collections.abc import Callable
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, cast

import numpy as np
import pyro
import torch
from pyro import poutine
from pyro.infer import Trace_ELBO, TraceMeanField_ELBO
from torch import Tensor, nn
from torch.distributions import Distribution

from pyro_unmix.errors import FitDiverged, InputError, UnmixWarning
from pyro_unmix.guide import UnmixingGuide
from pyro_unmix.initialize import Start
from pyro_unmix.io.files import atomic_path
from pyro_unmix.least_squares import LeastSquares
from pyro_unmix.model import UnmixingModel
from pyro_unmix.numerics import seeded
from pyro_unmix.pairs import (
    LabelledPixels,
    Pairs,
    PosteriorScenes,
    PriorScenes,
    labels_error,
    pairs_from_prior,
    pairs_loss,
    simulated,
)
from pyro_unmix.priors import Dirichlet, Sparse
from pyro_unmix.processes import Processes
from pyro_unmix.progress import StageProgress
from pyro_unmix.refine.concentration import concentration_of
from pyro_unmix.refine.shared import Shared, draw_shared, guide_as_shared, is_exact
from pyro_unmix.scene import Scene
from pyro_unmix.tiles import Tiles, Tiling

if TYPE_CHECKING:
    from pyro_unmix.fit import FitConfig


class Trainer:
    """Two stages over the same guide, one optimiser each, one step of any of them resumable.

    Several `processes` take other tiles of the same step, or other pairs, each with random numbers of its own. Their batches
    estimate the same loss without bias, and so does the mean of their gradients, by which all of them take the same step.
    `pairs` are what the second stage learns from, in place of what the first has found; where there are `labels` and no exact
    draws, these. To their loss comes `mse_weight` times the squared error of the mean abundances.
    """

    def __init__(self, model: UnmixingModel, guide: UnmixingGuide, scene: Scene, start: Start, config: FitConfig,
                 processes: Processes, bar: StageProgress, checkpoint: Path | None, seed: int, *,
                 pairs: Callable[[], Pairs] | None = None, labels: np.ndarray | None = None, mse_weight: float = 0.0):
        self.config, self.bar, self.checkpoint, self.scene, self.seed = config, bar, checkpoint, scene, seed
        self.processes, device = processes, processes.device
        self.model = copy.deepcopy(model).to(device)  # its parts may be the caller's
        self.mse_weight = mse_weight
        self.start, self.from_prior = start, pairs_from_prior(model, start)
        self.exact = start.joint and config.sampling_steps > 0 and is_exact(self._dirichlet())
        # Not in training mode, in which Pyro warns of parameters that are held.
        self.guide = guide.bind(start, exact=self.exact or self.from_prior or pairs is not None).to(device).eval()
        self.elbo = choose_elbo(self.model, self.guide)(self.model, self.guide)
        self.tiling = Tiling(scene, config.tile_size, self.guide.halo, device, labels)
        self.tiles_per_step = processes.share(config.tiles_per_step, len(self.tiling))
        self.pairs = pairs if labels is None or self.exact else LabelledPixels(self.tiling, self.tiles_per_step)
        self.n_pixels = scene.n_pixels
        self.stages: dict[str, tuple[int, Callable[[Tiles, int], Tensor]]] = {
            "svi": (config.svi_steps, self._svi_loss),
            "calibrate": (config.calibration_steps, self._calibration_loss),
        }
        self.step = 0
        self.history: list[dict] = []
        self.seconds: dict[str, float] = {}
        self.interrupted = False
        self.shared: Shared | None = None
        self._enter("svi")
        processes.part_ways(seed)

    def _enter(self, stage: str) -> None:
        self.stage = stage
        if stage == "svi" and (self.exact or self.from_prior or self.model.least_squares_is_mode):
            self.guide.head.hold()
        if stage == "calibrate":
            self.guide.calibrate(exact=self.pairs is not None)
            self.guide.zero_grad()  # what is held still has the gradients of the last step, which would count in the norm
        self.trained = [parameter for parameter in self.guide.parameters() if parameter.requires_grad]
        self.optimizer = torch.optim.Adam(self.trained, lr=self.config.learning_rate)

    def _prepare_calibration(self) -> None:
        """What to simulate from: exact draws or the prior where that is possible, else the guide as it is now."""
        self.source = copy.deepcopy(self.guide)  # it must not follow what is being trained on it
        if self.pairs is None and self.from_prior and not self.exact:
            with seeded(self.seed):
                self._simulate_from(guide_as_shared(self.model, self.guide, concentration_of(self.start.abundances)))
        if self.pairs is None and self.exact and self.config.calibration_steps:
            began = time.perf_counter()
            self.bar.stage("sample", self.config.sampling_steps)
            # A chain of many small steps, each on a few pixels: no work for a GPU.
            model, guide = copy.deepcopy(self._dirichlet()).cpu(), copy.deepcopy(self.guide).cpu()
            with seeded(self.seed):
                self._simulate_from(self.processes.from_first(lambda: draw_shared(
                    model, guide, self.scene, steps=self.config.sampling_steps, on_step=self.bar.advance)))
            self.bar.finish()
            self.seconds["sample"] = time.perf_counter() - began

    def _dirichlet(self) -> UnmixingModel:
        """The model by which what pixels share is drawn; where truth comes from another law than Dirichlet, with the nearest."""
        if not self.from_prior or isinstance(self.model.abundances, Dirichlet):
            return self.model
        return self.model.replace(abundances=Dirichlet(1.0, learned=True))

    def _simulate_from(self, shared: Shared) -> None:
        prior = self.model.abundances
        if isinstance(prior, Sparse):  # its density near zero is that of a Dirichlet with the concentration of what is absent
            shared = replace(shared, concentration=torch.full_like(shared.concentration, prior.settings["absent"]))
        self.shared = shared
        self.guide.learn_shared(shared.endmembers, shared.noise_scale, shared.concentration)
        if self.from_prior:
            self.pairs = PriorScenes(self.model, shared, self.tiling, self.tiles_per_step)
            return
        with seeded(self.processes.seed(self.seed)):  # so that a training that goes on has the scenes it had
            self.pairs = PosteriorScenes(shared, self.tiling, self.tiles_per_step)

    def run(self) -> None:
        names = list(self.stages)
        try:
            for name in names[names.index(self.stage):]:
                if name != self.stage:
                    if not self.stages[name][0]:
                        break
                    self.step = 0
                    self._prepare_calibration()
                    self._enter(name)
                self._run_stage()
            if self.checkpoint:
                self.save(self.checkpoint)
        except KeyboardInterrupt:
            if self.processes.size > 1:  # each stops at another place: there is no result that all of them have
                warnings.warn(f"training was interrupted in stage '{self.stage}' and leaves no result; resume from the last "
                              "checkpoint, if there is one", UnmixWarning, stacklevel=3)
                raise
            self.interrupted = True
        self.guide.train().requires_grad_(True)

    def _run_stage(self) -> None:
        steps, loss_of = self.stages[self.stage]
        loss_of = self.processes.averaged(loss_of, self.trained)
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
                self.save(self.checkpoint)
        self.bar.finish()

    def _train_step(self, loss_of: Callable[[Tiles, int], Tensor]) -> tuple[float, float]:
        tiles = self.tiling.batch(self.processes.deal(torch.randperm(len(self.tiling)), self.tiles_per_step).tolist())
        self.optimizer.zero_grad()
        try:
            loss = loss_of(tiles, self.step)
            loss.backward()
        except (ValueError, torch.linalg.LinAlgError) as error:  # what is not finite is refused before any loss is made
            site = first_not_finite(self.model, self.guide, tiles)
            if site is None:
                raise
            raise FitDiverged(site, self.step) from error
        loss = self.processes.mean(loss.detach())
        norms = [parameter.grad.norm() for parameter in self.guide.parameters() if parameter.grad is not None]
        if not torch.isfinite(torch.stack([loss, *norms])).all():
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
        loss = self.elbo(tiles.weighted(weight)) / self.n_pixels
        if self.mse_weight and tiles.labels is not None:
            loss = loss + self.mse_weight * labels_error(self.guide, tiles)
        return loss

    def _calibration_loss(self, tiles: Tiles, step: int) -> Tensor:
        pairs = simulated(self.model, self.source, tiles) if self.pairs is None else self.pairs()
        return pairs_loss(self.guide, pairs, self.mse_weight)

    def save(self, checkpoint: Path) -> None:
        """Keep the state of training; safe against being killed at any moment."""
        calibrating = self.stage == "calibrate"
        random = self.processes.gather((torch.get_rng_state(),
                                        torch.cuda.get_rng_state_all() if torch.cuda.is_initialized() else []))
        if not self.processes.first:
            return
        state = {"guide": self.guide.state_dict(), "source": self.source.state_dict() if calibrating else None,
                 "shared": None if self.shared is None else vars(self.shared),
                 "optimizer": self.optimizer.state_dict(), "stage": self.stage, "step": self.step,
                 "history": self.history, "seconds": self.seconds, "random": random,
                 "belongs_to": self.belongs_to()}
        content = io.BytesIO()  # what a disk says is lost in what torch says
        torch.save(state, content)
        with atomic_path(checkpoint) as path:
            path.write_bytes(content.getbuffer())

    def restore(self) -> None:
        """Go on from the checkpoint, if there is one.

        Raises
        ------
        InputError
            It belongs to another fit, or cannot be read.
        """
        state = self.processes.from_first(self._read_checkpoint)
        if state is None:
            return
        if state["stage"] == "calibrate":
            self.source = copy.deepcopy(self.guide)
            self.source.load_state_dict(state["source"])
            if state["shared"] is not None:
                self._simulate_from(Shared(**state["shared"]))
        self._enter(state["stage"])
        self.guide.load_state_dict(state["guide"])
        self.optimizer.load_state_dict(state["optimizer"])
        self.step, self.history = state["step"], state["history"]
        self.seconds = state["seconds"]
        random, random_gpu = state["random"][self.processes.rank]
        torch.set_rng_state(random)
        if random_gpu and torch.cuda.is_available():
            torch.cuda.set_rng_state_all(random_gpu)

    def _read_checkpoint(self) -> dict | None:
        if self.checkpoint is None or not self.checkpoint.exists():
            return None
        try:
            state = torch.load(self.checkpoint, weights_only=True, map_location="cpu")
            belongs_to = state["belongs_to"]
        except Exception as error:  # damaged bytes lead torch anywhere
            raise InputError("a checkpoint of this very fit", f"'{self.checkpoint}', which cannot be read",
                             "remove it, or start again without resume") from error
        if belongs_to != self.belongs_to():
            raise InputError("a checkpoint of this very fit", f"'{self.checkpoint}' of other settings",
                             "use the same scene, K, guide, seed, configuration and number of processes, or start again without "
                             "resume")
        return state

    def belongs_to(self) -> str:
        """Digest of everything that decides how training goes on."""
        digest = hashlib.sha256(f"{self.seed} {self.config} {self.model} {self.guide} {self.mse_weight} {self.processes.size}"
                                .encode())
        labels = [part for part in (self.tiling.labels, self.tiling.labelled) if part is not None]
        for tensor in (self.tiling.image, *labels, *self.model.state_dict().values()):
            digest.update(tensor.cpu().numpy().tobytes())
        return digest.hexdigest()


def choose_elbo(model: UnmixingModel, guide: UnmixingGuide) -> Trace_ELBO:
    """`TraceMeanField_ELBO` where every divergence from a prior is known in closed form, else `Trace_ELBO`."""
    n_bands = guide.endmembers.mean.shape[1]
    k = model.n_endmembers
    device = guide.endmembers.mean.device
    features, even = torch.zeros(1, guide.encoder.n_features, device=device), torch.full((1, k), 1 / k, device=device)
    estimate = LeastSquares(even, torch.ones(1, device=device), even, torch.eye(k, device=device)[None])
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
    of_guide, of_model = poutine.trace(), poutine.trace()
    with pyro.validation_enabled(False), torch.no_grad():
        with suppress(ValueError, RuntimeError):  # the sites before one that cannot be drawn from are told all the same
            with of_guide:
                guide(tiles)
            with of_model, poutine.replay(trace=of_guide.trace):
                model(tiles)
        for name, site in [*of_guide.trace.nodes.items(), *of_model.trace.nodes.items()]:
            if site["type"] == "sample" and name != "pixel":
                value, distribution = cast(Tensor, site["value"]), cast(Distribution, site["fn"])
                if not torch.isfinite(value).all() or not torch.isfinite(distribution.log_prob(value)).all():
                    return name
    for name, parameter in guide.named_parameters():
        if parameter.grad is not None and not torch.isfinite(parameter.grad).all():
            return f"gradient of {name}"
    return None
