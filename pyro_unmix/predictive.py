"""What a model says of spectra: how probable they are, and what else they could have been."""

from __future__ import annotations

import numpy as np
import torch
import xarray as xr
from torch import Tensor

from pyro_unmix.likelihood import PixelLikelihood
from pyro_unmix.mixing import Linear
from pyro_unmix.model import UnmixingModel
from pyro_unmix.noise import DiagonalNoise, LowRankNoise, PixelScaleNoise, SmoothNoise
from pyro_unmix.numerics import seeded

# Spectra worked on at a time: 30 MB where there are 200 bands.
_WORKING = 2**14


def mean_spectrum(model: UnmixingModel, abundances: Tensor, endmembers: Tensor, brightness: Tensor | None) -> Tensor:
    """`(..., L)` from abundances `(..., K)`, endmembers `(K, L)` and brightness `(...)`."""
    return model.mean(abundances, endmembers, brightness)


def log_likelihood(model: UnmixingModel, pixels: Tensor, endmembers: Tensor, noise_scale: Tensor, abundances: Tensor,
                   brightness: Tensor | None) -> Tensor:
    """Log density of `pixels` `(n, L)` given draws of their abundances `(n_draws, n, K)` and brightness `(n_draws, n)`.

    Returns `(n_draws, n)`. Where mixing is linear, and noise normal or `PixelScaleNoise`, its cost does not depend on the number
    of bands.
    """
    x = abundances if brightness is None else brightness[..., None] * abundances
    if model.variability is not None:
        return model.variability.log_prob(pixels, x, endmembers, model.noise.cholesky(noise_scale))
    if isinstance(model.mixing, Linear) and type(model.noise) is PixelScaleNoise:
        normal = PixelLikelihood.of(pixels, endmembers, model.noise.scales(noise_scale)).log_prob(x)
        return model.noise.of_normal(normal, noise_scale)
    if isinstance(model.mixing, Linear) and type(model.noise) in (DiagonalNoise, SmoothNoise, LowRankNoise):
        return PixelLikelihood.of(pixels, endmembers, model.noise.cholesky(noise_scale)).log_prob(x)
    parts = torch.arange(len(pixels)).split(max(1, _WORKING // len(abundances)))
    return torch.cat([
        model.noise.likelihood(mean_spectrum(model, abundances[:, part], endmembers,
                                             None if brightness is None else brightness[:, part]), noise_scale)
        .log_prob(pixels[part]) for part in parts], dim=1)


@torch.no_grad()
def simulate_spectra(model: UnmixingModel, draws: xr.Dataset, *, seed: int) -> xr.Dataset:
    """`reflectance` (draw, y, x, wavelength) as the model would make it from every one of `draws` (`Posterior.draws`)."""
    use = _in_use(draws)
    found = np.full((*draws.abundances.shape[:3], draws.sizes["wavelength"]), np.nan, dtype=np.float32)
    with seeded(seed):
        for number in range(draws.sizes["draw"]):
            abundances, brightness, endmembers, noise_scale = _tensors(draws, number, use)
            mean = mean_spectrum(model, abundances, endmembers, brightness)
            made = model.likelihood(mean, abundances, endmembers, brightness, noise_scale)
            found[number, use] = made.sample().numpy()
    return _like(draws, {"reflectance": (("draw", "y", "x", "wavelength"), found)})


@torch.no_grad()
def log_likelihoods(model: UnmixingModel, draws: xr.Dataset, observed: xr.DataArray) -> xr.Dataset:
    """`reflectance` (draw, y, x): log density of the spectra `observed` (y, x, wavelength) under every one of `draws`."""
    use = _in_use(draws)
    pixels = torch.as_tensor(observed.values[use], dtype=torch.float64)
    found = np.full(draws.abundances.shape[:3], np.nan)
    for number in range(draws.sizes["draw"]):
        abundances, brightness, endmembers, noise_scale = _tensors(draws, number, use)
        found[number, use] = log_likelihood(model, pixels, endmembers, noise_scale, abundances[None],
                                            None if brightness is None else brightness[None])[0].numpy()
    return _like(draws, {"reflectance": (("draw", "y", "x"), found)})


@torch.no_grad()
def pixel_endmembers(model: UnmixingModel, draws: xr.Dataset, spectrum: np.ndarray) -> xr.Dataset:
    """`endmember_mean` and `endmember_sd` (endmember, wavelength) of the endmembers of one pixel, of whose posterior there are
    `draws` and whose `spectrum` is `(L,)`: the mean of the conditional means, and the variance by the law of total variance."""
    pixel, means, variances = torch.as_tensor(spectrum, dtype=torch.float64), [], []
    for number in range(draws.sizes["draw"]):
        abundances, brightness, endmembers, noise_scale = _tensors(draws, number, _in_use(draws))
        amounts = (abundances if brightness is None else brightness[:, None] * abundances)[0]
        mean, variance = model.variability.of_pixel(pixel, amounts, endmembers, model.noise.cholesky(noise_scale))
        means.append(mean)
        variances.append(variance)
    sd = (torch.stack(variances).mean(dim=0) + torch.stack(means).var(dim=0, correction=0)).sqrt()
    dims = draws.endmembers.dims[1:]
    return xr.Dataset({"endmember_mean": (dims, torch.stack(means).mean(dim=0).numpy()), "endmember_sd": (dims, sd.numpy())},
                      coords={name: draws.coords[name] for name in dims}, attrs=draws.attrs)


@torch.no_grad()
def prior_draws(model: UnmixingModel, draws: xr.Dataset, *, seed: int) -> xr.Dataset:
    """As many draws from the model's priors, of the pixels of `draws` and in its form."""
    n, k, n_bands = draws.endmembers.shape
    use = _in_use(draws)
    maps = torch.Size([n, int(use.sum())])
    with seeded(seed):
        endmembers = model.endmembers(k, n_bands).sample(torch.Size([n]))
        drawn = {"abundances": model.abundances(k).sample(maps)}
        if model.brightness is not None:
            drawn["brightness"] = model.brightness.prior().sample(maps)
        noise_scale = model.noise.prior(n_bands).sample(torch.Size([n]))
    variables = {"endmembers": (draws.endmembers.dims, endmembers.numpy()),
                 "noise_scale": (draws.noise_scale.dims, noise_scale.numpy())}
    for name, values in drawn.items():
        whole = np.full(draws[name].shape, np.nan, dtype=np.float32)
        whole[:, use] = values.numpy()
        variables[name] = (draws[name].dims, whole)
    return _like(draws, variables)


def _in_use(draws: xr.Dataset) -> np.ndarray:
    return draws.abundances[0, :, :, 0].notnull().values


def _tensors(draws: xr.Dataset, number: int, use: np.ndarray) -> tuple[Tensor, Tensor | None, Tensor, Tensor]:
    """Of one draw: abundances `(n, K)` and brightness `(n,)` of pixels in use, endmembers and noise scale."""
    def of(name: str) -> Tensor:
        return torch.as_tensor(draws[name].values[number], dtype=torch.float64)

    inside = torch.as_tensor(use)
    return (of("abundances")[inside], of("brightness")[inside] if "brightness" in draws else None, of("endmembers"),
            of("noise_scale"))


def _like(draws: xr.Dataset, variables: dict) -> xr.Dataset:
    return xr.Dataset(variables, coords=draws.coords, attrs=draws.attrs)
