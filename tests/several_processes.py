"""What each of two processes does for tests/test_distributed.py, which starts them: `torchrun several_processes.py FOLDER`."""

from __future__ import annotations

import contextlib
import io
import os
import sys
import time
from dataclasses import replace
from pathlib import Path
from unittest import mock

import pyro
import torch
from short_fits import CONFIG, K, L, quiet_fit, weights

import pyro_unmix as pu
from pyro_unmix import cli, report
from pyro_unmix.initialize import informed_endmembers
from pyro_unmix.numerics import seeded
from pyro_unmix.processes import Processes, together
from pyro_unmix.progress import StageProgress
from pyro_unmix.training import Trainer

OFTEN = replace(CONFIG, checkpoint_every=5)
# Long enough to come to rest.
LONGER = replace(CONFIG, svi_steps=35, calibration_steps=0, learning_rate=5e-2)


class Killed(BaseException):
    pass


def small_scene() -> pu.Scene:
    """Tiles of 8 hold 64, 48, 32 and 24 pixels."""
    return pu.simulate_scene(K, (12, 14), n_bands=L, brightness=0.2, seed=3)


def informed(scene: pu.Scene) -> pu.UnmixingModel:
    """What is told does not take time to find. The scene is to move the endmembers."""
    prior = informed_endmembers(scene.reference.endmembers.values, scene, K)
    return pu.UnmixingModel(K, endmembers=prior, brightness="pixel", evidence=1.0)


@contextlib.contextmanager
def without_noise():
    """Draws of the guide are means or medians: the loss is a function of the tiles and nothing else."""
    with (mock.patch.object(pyro.distributions.MultivariateNormal, "rsample", lambda self, shape=(): self.loc),
          mock.patch.object(pyro.distributions.LogNormal, "rsample", lambda self, shape=(): self.loc.exp()),
          mock.patch.object(pyro.distributions.Dirichlet, "rsample", lambda self, shape=(): self.mean)):
        yield


def gradients(processes: Processes, tiles_per_step: int) -> tuple[list[int], dict[str, torch.Tensor]]:
    """The tiles this process takes in a step of SVI, and the gradients by which it would go."""
    scene, config = small_scene(), replace(CONFIG, tiles_per_step=tiles_per_step, sampling_steps=0)
    with seeded(5), pyro.get_param_store().scope(), StageProgress(False) as bar:
        model, start = pu.initialize(informed(scene), scene, seed=5)
        trainer = Trainer(model, pu.UnmixingGuide("mlp"), scene, start, config, processes, bar, None, 5)
        torch.manual_seed(6)  # away from the start, where the encoder is not listened to
        for parameter in trainer.trained:
            parameter.data.add_(0.05 * torch.randn(parameter.shape))
        numbers = processes.deal(torch.randperm(len(trainer.tiling)), trainer.tiles_per_step).tolist()
        loss_of = processes.averaged(trainer._svi_loss, trainer.trained)
        with without_noise():
            loss_of(trainer.tiling.batch(numbers), 100).backward()
    return numbers, {name: each.grad for name, each in trainer.guide.named_parameters() if each.grad is not None}


def stopping(step: int, stop):
    """`stop()` is called in place of training step `step`."""
    train_step, seen = Trainer._train_step, []

    def trapped(*arguments):
        seen.append(1)
        return stop() if len(seen) > step else train_step(*arguments)

    return mock.patch.object(Trainer, "_train_step", trapped)


def killed():
    raise Killed


def interrupted():
    raise KeyboardInterrupt


def refusal(**options) -> str:
    try:
        quiet_fit(**options)
    except pu.InputError as error:
        return str(error)
    return ""


def command_line(*arguments: object) -> str:
    """What a command prints, on either channel."""
    said = io.StringIO()
    with (mock.patch.object(sys, "argv", ["pyro-unmix", *map(str, arguments)]), contextlib.redirect_stdout(said),
          contextlib.redirect_stderr(said), mock.patch.object(report, "write_report"), contextlib.suppress(SystemExit)):
        cli.main()
    return said.getvalue()


def result(fit: pu.Fit) -> tuple[dict, dict]:
    return weights(fit), fit.history.drop(columns="seconds").to_dict("list")


def main(folder: Path) -> None:
    with together(torch.device("cpu")) as processes:
        rank = processes.rank
        found = {"gradients": {n: gradients(processes, n) for n in (2, 4)}}
    scene = small_scene()
    checkpoint = folder / f"{rank}.pt"
    options = dict(model=informed(scene), scene=scene, config=OFTEN, checkpoint=checkpoint)
    longer = quiet_fit(options["model"], scene, config=LONGER)
    found["elbo"], found["endmembers"] = whole_elbo(longer, scene), longer.guide.endmembers.loc().detach()

    found["whole"] = result(quiet_fit(**options))
    found["kept at the end"] = checkpoint.exists()
    with stopping(17, killed), contextlib.suppress(Killed):  # while it calibrates
        quiet_fit(**options)
    found["kept when killed"] = checkpoint.exists()
    with stopping(1, interrupted):
        try:
            quiet_fit(**options, resume=True)
        except KeyboardInterrupt:
            found["interrupted"] = True
    found["resumed"] = result(quiet_fit(**options, resume=True))

    found["one tile"] = refusal(**{**options, "config": replace(OFTEN, tile_size=48)})
    found["other seeds"] = refusal(**options, seed=rank)
    found["said"] = command_line("fit", folder / "scene.npz", "-k", K, "--guide", "mlp", "--config", folder / "short.toml",
                                 "--brightness", "none", "--out", folder / f"run{rank}")
    if rank == 1:
        torch.save(found, folder / "found1.pt")
        with stopping(5, lambda: os._exit(0)):
            quiet_fit(**options)
    began = time.perf_counter()
    try:
        quiet_fit(**options)
    except pu.ProcessLost as error:
        found["lost"] = str(error), time.perf_counter() - began
    torch.save(found, folder / "found0.pt")


def whole_elbo(fit: pu.Fit, scene: pu.Scene) -> float:
    """Loss of the whole scene, nats per pixel, by the same 10 draws for every fit."""
    tiles = pu.whole(scene)
    with seeded(0), pyro.get_param_store().scope(), torch.no_grad():
        losses = [pyro.infer.TraceMeanField_ELBO().loss(fit.model, fit.guide, tiles) for _ in range(10)]
    return sum(losses) / len(losses) / scene.n_pixels


if __name__ == "__main__":
    main(Path(sys.argv[1]))
