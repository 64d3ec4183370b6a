"""Train a guide on simulated scenes, and let it unmix real ones."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import replace

import pyro
import torch
from torch import Tensor, nn

from pyro_unmix.errors import InputError
from pyro_unmix.fit import Fit, FitConfig, endmember_names, finished
from pyro_unmix.guide import UnmixingGuide
from pyro_unmix.initialize import initialize
from pyro_unmix.model import UnmixingModel
from pyro_unmix.noise import LowRankNoise
from pyro_unmix.numerics import flush_denormals, one_thread, repeatable, seeded
from pyro_unmix.pairs import Pairs, SimulatedScenes
from pyro_unmix.processes import Processes
from pyro_unmix.progress import StageProgress
from pyro_unmix.refine.concentration import concentration_of
from pyro_unmix.scene import Scene
from pyro_unmix.simulator_check import Simulated
from pyro_unmix.training import Trainer

# Scenes that say what law abundances follow, and how far spectra are from the mixtures of the endmembers.
_SCENES = 5
# Directions in which spectra may vary.
_RANK = 16


@one_thread()
def transfer(
    model: UnmixingModel,
    scenes: Callable[[int], Scene],
    *,
    guide: str | UnmixingGuide = "spacnn",
    steps: int = 1000,
    mse_weight: float = 0.0,
    seed: int = 0,
    config: FitConfig | None = None,
    names: list[str] | None = None,
    progress: bool = True,
) -> Fit:
    """Train a guide on endlessly drawn simulated scenes; it then unmixes real ones of the same sensor in one forward pass.

    By maximum likelihood of the truth, log q(abundances | spectra): simulation-based inference, whose guide is that of the
    simulator's posterior (Papamakarios and Murray 2016, NeurIPS, "Fast epsilon-free inference of simulation models with Bayesian
    conditional density estimation"; Le, Baydin and Wood 2017, AISTATS, "Inference compilation"). What it says of a real scene is
    as good as the simulator: `post.findings()` compares the scene with simulated ones that are drawn once the guide is trained.

    Parameters
    ----------
    model
        With an endmember prior of its own, such as the spectra of a library: endmember k is that of the simulated scenes. Its
        noise gives way to what is measured on some of them (`misfit`); a brightness that is open is decided from the first.
    scenes
        From a seed to a scene whose reference holds the `abundances` and, where it varies, the `brightness` of every pixel.
    steps
        Scenes that are learned from.
    mse_weight
        Of the mean squared error of the mean abundances, added to -log q: the term of Chitnis, Mantripragada and Qureshi (2023),
        arXiv 2311.10701.
    guide, seed, config, names, progress
        As in `fit`; of `config` what concerns a step and the device. names None: those of the simulated scenes.

    Raises
    ------
    InputError
        A model without an endmember prior, or scenes without truth or with another number of endmembers.
    FitDiverged
        A value is not finite; the error names the step.
    """
    if model.endmembers is None:
        raise InputError("a model with an endmember prior", "one that is open",
                         "give it spectra: pu.priors.MVNEndmembers, or informed_endmembers")
    if not mse_weight >= 0:
        raise InputError("an mse_weight of zero or more", f"{mse_weight}")
    config = replace(config or FitConfig(), svi_steps=0, calibration_steps=steps, sampling_steps=0)
    guide = UnmixingGuide(guide) if isinstance(guide, str) else guide
    device = config.torch_device()
    with seeded(seed), flush_denormals(), repeatable(device), pyro.get_param_store().scope(), StageProgress(progress) as bar:
        began = time.perf_counter()
        bar.stage("initialize", 1)
        first = scenes(seed)
        pairs = SimulatedScenes(scenes, model.n_endmembers, first.n_bands, device)
        pairs.check(first)
        if names is None and first.reference is not None:
            names = [str(name) for name in first.reference.endmember.values]
        names = endmember_names(names, model.n_endmembers)
        model, start = initialize(model, first, seed=seed)
        some = [pairs() for _ in range(_SCENES)]
        # Where the model has no brightness, that of the scenes is one more way to depart from its mixtures.
        noise = misfit([(tiles, abundances, None if start.brightness is None else brightness)
                        for tiles, abundances, brightness in some], start.endmembers, start.mixing)
        bar.advance()
        # One posterior for scenes that differ: what pixels share is not drawn from any of them.
        start = replace(start, joint=False, denoise=None, noise_scale=noise.scale.float(),
                        noise_correlation=noise.cholesky(torch.ones(first.n_bands)))
        model = model.replace(noise=noise, variability=None)  # which the departures hold already
        trainer = Trainer(model, guide, first, start, config, Processes(device), bar, None, seed, pairs=pairs,
                          mse_weight=mse_weight)
        concentration = concentration_of(torch.cat([abundances.cpu() for _, abundances, _ in some]))
        trainer.guide.head.learn_prior(concentration.float().to(device))
        trainer.seconds["initialize"] = time.perf_counter() - began
        trainer.run()
    fit = finished(trainer, first, names)
    if fit.calibrated:
        fit.simulated = Simulated.of(fit, scenes, seed + 1)  # not the scenes of training, whose seeds come from `seed`
    return fit


def misfit(pairs: list[Pairs], endmembers: Tensor, mixing: nn.Module) -> LowRankNoise:
    """How spectra depart from the mixtures of `endmembers` `(K, L)` that their truth makes: noise, and materials that vary.

    The leading directions of the departures are factors, the rest is independent. Least squares that know of them (Aitken 1936,
    Proceedings of the Royal Society of Edinburgh 55) leave alone what varies.
    """
    left = []
    for tiles, abundances, brightness in pairs:
        mixed = mixing(abundances.double(), endmembers.double().to(abundances.device))
        left.append(tiles.pixels().double() - (mixed if brightness is None else brightness[:, None] * mixed))
    departures = torch.cat(left).cpu()
    covariance = departures.T @ departures / len(departures)
    values, vectors = torch.linalg.eigh(covariance)
    rank = min(_RANK, len(values) // 2)
    # What the independent part has in these directions is not theirs.
    loadings = vectors[:, -rank:] * (values[-rank:] - values[:-rank].mean()).clamp_min(0.0).sqrt()
    scale = (covariance.diagonal() - loadings.square().sum(dim=1)).clamp_min(1e-3 * covariance.diagonal()).sqrt()
    return LowRankNoise(scale, (loadings / scale[:, None]).T)
