"""The generative story of a scene."""

from __future__ import annotations

from collections.abc import Callable
from types import NoneType
from typing import Any, cast

import numpy as np
import pyro
import pyro.distributions as dist
import torch
from pyro import poutine
from pyro.distributions.torch_distribution import TorchDistributionMixin
from pyro.nn import PyroModule
from torch import Tensor, nn

from pyro_unmix.errors import InputError
from pyro_unmix.mixing import Linear, is_open
from pyro_unmix.noise import BandNoise, PixelBrightness
from pyro_unmix.priors import Dirichlet, as_prior, check_abundance_prior
from pyro_unmix.tiles import Tiles
from pyro_unmix.variability import Variability


class UnmixingModel(PyroModule):
    """Endmembers, their abundances in every pixel, and the spectra they make.

    Parameters
    ----------
    n_endmembers
        Number of materials, K >= 2. "auto": estimated from the scene when it is fitted, by `subspace.count_endmembers`; not
        together with an endmember prior of your own.
    abundances
        Prior of the abundances of a pixel: an object of `priors`, a distribution on the simplex, or a callable that takes K
        and returns one. None: `Dirichlet(1, learned=True)`, flat until the scene says otherwise.
    endmembers
        Prior of the endmembers: an object of `priors`, a distribution over (K, n_bands), or a callable that takes the
        two numbers. None: multivariate normal, smooth over wavelength, centred on what the scene says when it is fitted.
    mixing
        How materials combine. None: `mixing.Linear()`.
    brightness
        "none", "pixel" or a `PixelBrightness`: whether every pixel has a factor of its own. "auto": decided from the scene.
    noise
        How a spectrum departs from its mixture. None: `DiagonalNoise`, or `SmoothNoise` where pixels of the scene err
        independently of each other, but bands do not.
    variability
        How the spectra of the materials differ from pixel to pixel: a `Variability`. None: they do not. With linear mixing and
        normal noise; noise None is then `DiagonalNoise`.
    evidence
        Share of the likelihood that moves the endmembers, from 0 to 1. Neighbouring bands and pixels of a real scene err
        together; counted as independent they drown any prior and drive the endmembers away from the truth. None: decided from
        the scene when it is fitted. It is 0 where the endmember prior was made from the same scene, which would count twice: the
        posterior is cut there (Plummer 2015, Statistics and Computing 25, "Cuts in Bayesian graphical models"). A prior of your
        own gets 1 where the noise is white and less where it is not.

    Raises
    ------
    InputError
        A part that cannot be what it is meant to be; priors are checked by drawing from them, once K is known.
    """

    # Open until a scene fills them: None, or "auto".
    n_endmembers: Any
    endmembers: Any
    brightness: Any
    noise: Any
    variability: Any
    evidence: Any

    def __init__(
        self,
        n_endmembers: int | str = "auto",
        *,
        abundances: nn.Module | dist.Distribution | Callable | None = None,
        endmembers: nn.Module | dist.Distribution | Callable | None = None,
        mixing: nn.Module | None = None,
        brightness: str | PixelBrightness | None = "auto",
        noise: BandNoise | None = None,
        variability: Variability | None = None,
        evidence: float | None = None,
    ):
        super().__init__()
        counted = isinstance(n_endmembers, (int, np.integer)) and n_endmembers >= 2
        if not counted and not (isinstance(n_endmembers, str) and n_endmembers == "auto"):
            raise InputError("at least 2 endmembers, a whole number, or 'auto'", f"{n_endmembers!r}",
                             "unmixing needs two materials or more")
        if not counted and endmembers is not None:
            raise InputError("a number of endmembers with an endmember prior of your own", "'auto'",
                             "say how many endmembers the prior holds")
        if not (brightness in ("auto", "none", "pixel", None) or isinstance(brightness, PixelBrightness)):
            raise InputError("brightness 'auto', 'none', 'pixel' or a PixelBrightness", f"{brightness!r}")
        if variability is not None and not (isinstance(variability, Variability) and isinstance(mixing, (Linear, NoneType))
                                            and (noise is None or type(noise).cholesky is not BandNoise.cholesky)):
            raise InputError("variability as a Variability, with linear mixing and noise of a known covariance",
                             ", ".join(type(part).__name__ for part in (variability, mixing, noise) if part is not None),
                             "leave mixing and noise open, or the variability out")
        if evidence is not None and not 0 <= evidence <= 1:
            raise InputError("evidence from 0 to 1", f"{evidence}")
        self._parts = {"abundances": abundances, "endmembers": endmembers, "mixing": mixing, "brightness": brightness,
                       "noise": noise, "variability": variability, "evidence": evidence}
        self.n_endmembers = int(n_endmembers) if counted else n_endmembers
        self.abundances = as_prior(abundances if abundances is not None else Dirichlet(1.0, learned=True))
        self.endmembers = as_prior(endmembers) if endmembers is not None else None
        self.mixing = mixing if mixing is not None else Linear()
        self.brightness = PixelBrightness() if brightness == "pixel" else brightness if brightness != "none" else None
        self.noise = noise
        self.variability = variability
        self.evidence = evidence
        if counted:
            check_abundance_prior(self.abundances, self.n_endmembers)

    def replace(self, **parts) -> UnmixingModel:
        """A new model with some parts exchanged; this one stays as it is."""
        if unknown := set(parts) - {"n_endmembers", *self._parts}:
            raise InputError(f"parts among n_endmembers, {', '.join(self._parts)}", f"{', '.join(sorted(unknown))}")
        return UnmixingModel(parts.pop("n_endmembers", self.n_endmembers), **{**self._parts, **parts})

    def forward(self, tiles: Tiles) -> Tensor:
        """Tell the story of the pixels that count in `tiles`; returns their mean spectra `(n_pixels, n_bands)`."""
        if self._has_open_parts():
            raise InputError("a model whose open parts are filled in", "one that has not seen a scene yet",
                             "call pyro_unmix.initialize(model, scene) or pyro_unmix.fit(model, scene)")
        observed = tiles.pixels()
        n_pixels, n_bands = observed.shape
        known, labelled = cast(tuple[Tensor | None, torch.BoolTensor | None], tiles.known())

        endmembers = pyro.sample("endmembers", self.endmembers(self.n_endmembers, n_bands))
        noise_scale = pyro.sample("noise_scale", self.noise.prior(n_bands))
        endmembers = self.evidence * endmembers + (1 - self.evidence) * endmembers.detach()  # same value, tempered gradient
        with poutine.scale(scale=tiles.scale), pyro.plate("pixel", n_pixels):
            with poutine.scale(scale=tiles.kl_weight):
                abundances = pyro.sample("abundances", self.abundances(self.n_endmembers), obs=known, obs_mask=labelled)
                brightness = None if self.brightness is None else pyro.sample("brightness", self.brightness.prior())
            mean = self.mean(abundances, endmembers, brightness)
            made = self.likelihood(mean, abundances, endmembers, brightness, noise_scale)
            pyro.sample("reflectance", made, obs=observed)
        return mean

    def mean(self, abundances: Tensor, endmembers: Tensor, brightness: Tensor | None) -> Tensor:
        """Mean spectra `(..., n_bands)` of abundances `(..., n_endmembers)`, endmembers `(n_endmembers, n_bands)` and brightness
        `(...)`."""
        mixed = self.mixing(abundances, endmembers)
        return mixed if brightness is None else brightness[..., None] * mixed

    def likelihood(self, mean: Tensor, abundances: Tensor, endmembers: Tensor, brightness: Tensor | None,
                   noise_scale: Tensor) -> TorchDistributionMixin:
        """Distribution of spectra around their `mean` `(..., n_bands)`; all else as there, `noise_scale` `(n_bands,)`."""
        if self.variability is None:
            return self.noise.likelihood(mean, noise_scale)
        amounts = abundances if brightness is None else brightness[..., None] * abundances
        return self.variability.likelihood(mean, amounts, endmembers, self.noise.cholesky(noise_scale))

    @torch.no_grad()
    def generate(self, abundances: Tensor | np.ndarray, n_bands: int, **given: Tensor | np.ndarray | float) -> Tensor:
        """Spectra that the model makes of given abundances: what is not given is drawn from its priors.

        Random numbers are those of torch's generator.

        Parameters
        ----------
        abundances
            `(n, n_endmembers)`, on the simplex.
        n_bands
            Of the spectra.
        given
            Values of other sites by name: `endmembers` `(n_endmembers, n_bands)`, `brightness` `(n,)`, `noise_scale`
            `(n_bands,)`; one number stands for all.

        Returns
        -------
        spectra
            `(n, n_bands)`, in the unit of the endmembers.

        Raises
        ------
        InputError
            Abundances of another number of endmembers or off the simplex, a site the model does not have, or a shape that does
            not fit; a model whose open parts are not filled.
        """
        abundances = torch.as_tensor(abundances, dtype=torch.float32)
        if abundances.ndim != 2 or abundances.shape[1] != self.n_endmembers or not (
                (abundances >= 0).all() and ((abundances.sum(dim=1) - 1).abs() < 1e-3).all()):
            raise InputError(f"abundances (n, {self.n_endmembers}), at least 0 and summing to one in each row",
                             f"shape {tuple(abundances.shape)}", "divide them by their sum")
        shapes = {"endmembers": (self.n_endmembers, n_bands), "noise_scale": (n_bands,)}
        if self.brightness is not None:
            shapes["brightness"] = (len(abundances),)
        values = {"abundances": abundances}
        for name, value in given.items():
            value = torch.as_tensor(value, dtype=torch.float32)
            if name not in shapes or tuple(value.shape) not in {(), shapes[name]}:
                raise InputError("sites among " + ", ".join(f"{site} {shape}" for site, shape in shapes.items()),
                                 f"{name} of shape {tuple(value.shape)}")
            values[name] = value.expand(shapes[name])
        blank = torch.ones(1, 1, len(abundances), dtype=torch.bool)
        tiles = Tiles(torch.zeros(1, n_bands, 1, len(abundances)), blank, blank)
        told = poutine.trace(poutine.condition(poutine.uncondition(self), data=values)).get_trace(tiles)
        return cast(Tensor, told.nodes["reflectance"]["value"])

    @property
    def least_squares_is_mode(self) -> bool:
        """Whether constrained least squares, where the guide starts, are the most probable abundances: those of a prior that
        prefers none, and endmembers that do not vary. They follow the mixing."""
        return self.variability is None and isinstance(self.abundances, Dirichlet) and self.abundances.flat

    def _has_open_parts(self) -> bool:
        if (self.n_endmembers == "auto" or self.endmembers is None or self.brightness == "auto" or self.noise is None
                or self.evidence is None or is_open(self.mixing)):
            return True
        measured = [self.noise] if self.brightness is None else [self.noise, self.brightness]
        return any(torch.isnan(part.scale).any() for part in measured)
