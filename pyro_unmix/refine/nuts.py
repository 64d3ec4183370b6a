"""Draws by the No-U-Turn sampler: slow, assumes nothing, and the standard that faster posteriors are held against."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import NamedTuple

import pyro
import pyro.distributions as dist
import torch
from pyro import poutine
from pyro.infer import MCMC, NUTS
from pyro.infer.autoguide.initialization import init_to_mean
from pyro.infer.reparam.reparam import Reparam
from torch import Tensor

from pyro_unmix.errors import InputError
from pyro_unmix.model import UnmixingModel
from pyro_unmix.numerics import one_thread
from pyro_unmix.progress import StageProgress
from pyro_unmix.scene import Scene
from pyro_unmix.tiles import Tiles, whole

# Every pixel adds its own unknowns to one joint trajectory, whose steps grow shorter and more numerous.
_MOST_PIXELS = 30


class PixelDraws(NamedTuple):
    """Draws of pixels given endmembers and noise.

    Attributes
    ----------
    abundances
        `(draws, n_pixels, K)`.
    brightness
        `(draws, n_pixels)`, or None where the model has none.
    divergences
        `(n_pixels,)`: draws whose trajectory diverged. Many of them: the draws cannot be trusted.
    """

    abundances: Tensor
    brightness: Tensor | None
    divergences: Tensor


class JointDraws(NamedTuple):
    """Draws of everything latent: `endmembers` `(draws, K, L)`, `noise_scale` `(draws, L)`, `abundances` `(draws, n_pixels, K)`,
    `brightness` `(draws, n_pixels)` or None, and the number of draws whose trajectory diverged."""

    endmembers: Tensor
    noise_scale: Tensor
    abundances: Tensor
    brightness: Tensor | None
    divergences: int


@one_thread()
def nuts_pixels(model: UnmixingModel, pixels: Tensor, endmembers: Tensor, noise_scale: Tensor, *, draws: int = 500,
                warmup: int = 300, progress: bool = False) -> PixelDraws:
    """Draw abundances and brightness of a few pixels, endmembers and noise given.

    Hoffman and Gelman (2014), Journal of Machine Learning Research 15, on the model as it is: whatever its priors, mixing and
    noise. Given the endmembers pixels are independent, so each has a chain of its own, adapted to it; that takes ten seconds or
    more a pixel. In float64, from torch's random numbers.

    Parameters
    ----------
    model
        Filled in, by `initialize` or by hand.
    pixels
        `(n_pixels, L)`.
    endmembers
        `(K, L)`, in the unit of the pixels.
    noise_scale
        `(L,)`: standard deviations.

    Raises
    ------
    InputError
        Shapes that do not belong together, fewer than four draws or two warm-up steps, or a model with open parts.
    """
    k, n_bands = model.n_endmembers, pixels.shape[-1]
    if pixels.ndim != 2 or endmembers.shape != (k, n_bands) or noise_scale.shape != (n_bands,):
        raise InputError(f"pixels (n_pixels, L), {k} endmembers ({k}, L) and a noise_scale (L,)",
                         ", ".join(str(tuple(each.shape)) for each in (pixels, endmembers, noise_scale)))
    known = {"endmembers": endmembers.double(), "noise_scale": noise_scale.double()}
    conditioned = poutine.condition(_float64(model), data=known)
    here = torch.ones((1, 1, 1), dtype=torch.bool)
    chains, divergences = [], []
    with StageProgress(progress) as shown:
        shown.stage("NUTS", len(pixels))
        for pixel in pixels.double():
            chain, diverged = _sample(conditioned, Tiles(pixel[None, :, None, None], here, here), draws, warmup)
            chains.append(chain)
            divergences.append(diverged)
            shown.advance()
    together = {name: torch.cat([chain[name] for chain in chains], dim=1) for name in chains[0]}
    return PixelDraws(together["abundances"], together.get("brightness"), torch.tensor(divergences))


@one_thread()
def nuts_joint(model: UnmixingModel, scene: Scene, *, draws: int = 500, warmup: int = 500) -> JointDraws:
    """Draw everything latent of a tiny scene, endmembers and noise included: `nuts_pixels` says how. Takes minutes.

    Raises
    ------
    InputError
        More than 30 pixels, fewer than four draws or two warm-up steps, a model with open parts, or one whose `evidence` is not
        1: that weighs the gradient of the likelihood and not its value, so that there is no density to draw from.
    """
    if scene.n_pixels > _MOST_PIXELS:
        raise InputError(f"at most {_MOST_PIXELS} pixels", f"{scene.n_pixels}", "crop the scene, or hold the endmembers")
    if model.evidence is not None and model.evidence != 1.0:
        raise InputError("a model with evidence 1", f"{model.evidence}",
                         "model.replace(evidence=1.0), with an endmember prior that was not made from this scene")
    model, tiles = _float64(model), whole(scene)
    # Neighbouring bands of a smooth prior hardly differ: as they are, steps would be a hundredth of what whitened ones are.
    whitened = poutine.reparam(model, config={"endmembers": _Whitened()})
    chain, diverged = _sample(whitened, Tiles(tiles.reflectance.double(), tiles.valid, tiles.core), draws, warmup)
    endmembers = chain.get("endmembers")
    if endmembers is None:
        endmembers = _colour(model.endmembers(model.n_endmembers, scene.n_bands), chain["endmembers_white"])
    return JointDraws(endmembers, chain["noise_scale"], chain["abundances"], chain.get("brightness"), diverged)


class _Whitened(Reparam):
    """Multivariate-normal endmembers as standard normal ones, `endmembers_white`; any others as they are."""

    def apply(self, msg):
        prior = msg["fn"]
        if not isinstance(getattr(prior, "base_dist", None), dist.MultivariateNormal):
            return msg
        white = pyro.sample("endmembers_white", dist.Normal(torch.zeros_like(prior.base_dist.loc), 1.0).to_event(2))
        value = _colour(prior, white)
        return {"fn": dist.Delta(value, event_dim=2).mask(False), "value": value, "is_observed": True}


def _colour(prior: dist.Independent, white: Tensor) -> Tensor:
    """Endmembers `(..., K, L)` of standard normal numbers of that shape."""
    return prior.base_dist.loc + (prior.base_dist.scale_tril @ white[..., None])[..., 0]


def _float64(model: UnmixingModel) -> UnmixingModel:
    return copy.deepcopy(model).double()


def _sample(model: Callable, tiles: Tiles, draws: int, warmup: int) -> tuple[dict[str, Tensor], int]:
    """One chain, and how many of its draws diverged."""
    if draws < 4 or warmup < 2:
        raise InputError("at least four draws and two steps of warm-up", f"{draws} and {warmup}")
    # Abundances and brightness of a pixel are correlated: with a full mass matrix twice as many draws are effective.
    kernel = NUTS(model, full_mass=True, init_strategy=init_to_mean)
    chain = MCMC(kernel, num_samples=draws, warmup_steps=warmup, disable_progbar=True)
    with pyro.validation_enabled(False):  # checking every distribution takes a third of the time
        chain.run(tiles)
    return chain.get_samples(), len(chain.diagnostics()["divergences"]["chain 0"])
