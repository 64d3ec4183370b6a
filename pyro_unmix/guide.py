"""The amortised posterior: an encoder, a head on the simplex, and what is known of endmembers and noise."""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping
from typing import Any, cast

import pyro
import pyro.distributions as dist
import torch
from pyro import poutine
from pyro.distributions.torch_distribution import TorchDistributionMixin
from pyro.nn import PyroModule
from torch import Tensor, nn

from pyro_unmix.denoise import NonLocalMeans
from pyro_unmix.encoders import ConvEncoder, Encoder, PixelEncoder, SpatialAttentionEncoder
from pyro_unmix.errors import InputError
from pyro_unmix.heads import HEADS, BrightnessHead, Head
from pyro_unmix.initialize import Start
from pyro_unmix.least_squares import LeastSquares, in_few_coordinates, least_squares, pulled_in
from pyro_unmix.likelihood import noise_cholesky
from pyro_unmix.mixing import Linear, n_directions
from pyro_unmix.tiles import Tiles

ENCODERS: dict[str, Callable[[], Encoder]] = {"spacnn": SpatialAttentionEncoder, "cnn": ConvEncoder, "mlp": PixelEncoder}


class SpectrumInput(nn.Module):
    """What the encoder is fed: the shape of the spectrum and, apart from it, its brightness.

    The spectrum is divided by its norm and expressed in the leading principal directions of the scene, each scaled to unit
    variance; the log of the norm is the last channel.
    """

    mean: Tensor
    components: Tensor
    log_norm: Tensor

    def __init__(self, n_bands: int, n_components: int):
        super().__init__()
        self.register_buffer("mean", torch.zeros(n_bands))
        self.register_buffer("components", torch.zeros(n_components, n_bands))
        self.register_buffer("log_norm", torch.tensor([0.0, 1.0]))  # location and scale

    def set_start(self, start: Start) -> None:
        self.mean.copy_(start.spectrum_mean)
        self.components.copy_(start.components)
        self.log_norm.copy_(start.log_norm)

    def forward(self, reflectance: Tensor, valid: Tensor) -> Tensor:
        norm = reflectance.norm(dim=1, keepdim=True).clamp_min(1e-12)
        shape = torch.einsum("pl,blhw->bphw", self.components, reflectance) / norm - (self.components @ self.mean)[:, None, None]
        brightness = (norm.log() - self.log_norm[0]) / self.log_norm[1]
        return torch.cat([shape, brightness.clamp(-5, 5)], dim=1) * valid[:, None]


class EndmemberPosterior(nn.Module):
    """q(endmembers): multivariate normal, independent between endmembers.

    Written in the coordinates in which the covariance it starts from is white: location and scales are learned there, so a
    step is as smooth over wavelength as the start.
    """

    mean: Tensor
    scale_tril: Tensor

    def __init__(self, n_endmembers: int, n_bands: int):
        super().__init__()
        self.register_buffer("mean", torch.zeros(n_endmembers, n_bands))
        self.register_buffer("scale_tril", _identity(n_endmembers, n_bands))
        self.shift = nn.Parameter(torch.zeros(n_endmembers, n_bands))
        self.log_scale = nn.Parameter(torch.zeros(n_endmembers, n_bands))

    def set_start(self, start: Start) -> None:
        self.mean.copy_(start.endmembers)
        self.scale_tril.copy_(start.endmember_scale_tril)

    def loc(self) -> Tensor:
        """Posterior mean, `(n_endmembers, n_bands)`."""
        return self.mean + (self.scale_tril @ self.shift[..., None]).squeeze(-1)

    def factor(self) -> Tensor:
        """Lower Cholesky factors of the covariances, `(n_endmembers, n_bands, n_bands)`."""
        return self.scale_tril * self.log_scale.exp()[:, None, :]

    @property
    def stddev(self) -> Tensor:
        """`(n_endmembers, n_bands)`. Making a process's first normal distribution would take torch half a second of imports."""
        return self.factor().norm(dim=-1)

    @torch.no_grad()
    def match(self, draws: Tensor) -> None:
        """Take the mean of `draws` `(n_draws, n_endmembers, n_bands)` and, in white coordinates, their standard deviations."""
        apart = (draws - self.mean.to(draws))[..., None]
        white = torch.linalg.solve_triangular(self.scale_tril.to(draws), apart, upper=False).squeeze(-1)
        self.shift.copy_(white.mean(dim=0))
        self.log_scale.copy_(white.std(dim=0).log())

    def forward(self) -> dist.MultivariateNormal:
        """Distribution with batch shape `(n_endmembers,)` and event shape `(n_bands,)`."""
        return dist.MultivariateNormal(self.loc(), scale_tril=self.factor())


class NoisePosterior(nn.Module):
    """q(noise_scale) = LogNormal, one a band. The `correlation` between bands, a lower Cholesky factor `(n_bands, n_bands)`, is
    known, or None; so are the `degrees_of_freedom` of readings that are Student-t."""

    correlation: Tensor | None
    degrees_of_freedom: Tensor | None

    def __init__(self, n_bands: int, correlated: bool = False, heavy: bool = False):
        super().__init__()
        self.loc = nn.Parameter(torch.zeros(n_bands))
        self.log_scale = nn.Parameter(torch.full((n_bands,), -3.0))
        self.register_buffer("correlation", _identity(1, n_bands)[0] if correlated else None)
        self.register_buffer("degrees_of_freedom", torch.tensor(1.0) if heavy else None)

    def set_start(self, start: Start) -> None:
        self.loc.data.copy_(start.noise_scale.log())
        if self.correlation is not None and start.noise_correlation is not None:
            self.correlation.copy_(start.noise_correlation)
        if self.degrees_of_freedom is not None and start.degrees_of_freedom is not None:
            self.degrees_of_freedom.fill_(start.degrees_of_freedom)

    def cholesky(self) -> Tensor:
        """Lower Cholesky factor `(n_bands, n_bands)` at the median of the scales, or these `(n_bands,)`."""
        return noise_cholesky(self.loc.exp(), self.correlation)

    @torch.no_grad()
    def match(self, draws: Tensor) -> None:
        """Take mean and standard deviation of the logarithm of `draws` `(n_draws, n_bands)`."""
        self.loc.copy_(draws.log().mean(dim=0))
        self.log_scale.copy_(draws.log().std(dim=0).log())

    def forward(self) -> dist.LogNormal:
        return dist.LogNormal(self.loc, self.log_scale.exp())


class UnmixingGuide(PyroModule):
    """The guide of `UnmixingModel`: q(endmembers) q(noise_scale) prod_n q(abundances_n, brightness_n | pixel and neighbours).

    A guide made here is a plan. `bind` makes a trained copy's layers for one scene and leaves the plan as it is, so that one
    plan serves many fits that do not touch each other.

    Parameters
    ----------
    encoder
        "spacnn", "cnn", "mlp", or an `Encoder`.
    head
        Distribution of the abundances given the features: "dirichlet", "logistic-normal", "simplex-normal", "softmax", or a
        `Head`.
        "auto": "simplex-normal" where the exact posterior is to be learned from, else "dirichlet".
    """

    encoder: Encoder
    head: Head
    brightness: BrightnessHead | None
    denoise: NonLocalMeans | None
    joint: Tensor
    mixing: nn.Module
    input: SpectrumInput
    endmembers: EndmemberPosterior
    noise: NoisePosterior

    def __init__(self, encoder: str | Encoder = "spacnn", head: str | Head = "auto"):
        super().__init__()
        self.encoder = _named(ENCODERS, encoder, "guide")
        if head != "auto":
            self.head = _named(HEADS, head, "head")
        self.brightness = self.denoise = None

    @property
    def halo(self) -> int:
        """Pixels of context that a tile needs on every side to be exact."""
        return max(self.encoder.receptive_field // 2, (self.denoise or NonLocalMeans).halo)

    def bind(self, start: Start, *, exact: bool = False) -> UnmixingGuide:
        """A copy made for one scene, standing at its start: what to train. `exact`: it will learn from exact draws."""
        k, n_bands = start.endmembers.shape
        plan = copy.deepcopy(self)
        if not hasattr(plan, "head"):
            plan.head = HEADS["simplex-normal" if exact else "dirichlet"]()
        guide = plan.build(k, n_bands, len(start.components), brightness=start.brightness is not None,
                           denoise=None if start.denoise is None else type(start.denoise),
                           correlated=start.noise_correlation is not None, heavy=start.degrees_of_freedom is not None,
                           mixing=start.mixing)
        guide.denoise = copy.deepcopy(start.denoise)
        guide.joint.fill_(start.joint)
        for part in (guide.input, guide.endmembers, guide.noise):
            part.set_start(start)
        return guide

    def build(
        self, n_endmembers: int, n_bands: int, n_components: int, *, brightness: bool, denoise: type[NonLocalMeans] | None,
        correlated: bool, heavy: bool, mixing: nn.Module,
    ) -> UnmixingGuide:
        """A copy with layers of these sizes, to be filled by `bind` or `load_state_dict`."""
        guide = copy.deepcopy(self)
        guide.input = SpectrumInput(n_bands, n_components)
        guide.encoder.build(n_components + 1)
        guide.head.build(guide.encoder.n_features, n_endmembers)
        guide.mixing = copy.deepcopy(mixing)
        signal = n_directions(mixing, n_endmembers, n_bands)
        guide.denoise = None if denoise is None else denoise(n_bands, min(signal + 2, n_bands))
        guide.brightness = None
        if brightness:
            guide.brightness = BrightnessHead()
            guide.brightness.build(guide.encoder.n_features)
        guide.register_buffer("joint", torch.tensor(False))  # as `Start.joint`
        guide.endmembers = EndmemberPosterior(n_endmembers, n_bands)
        guide.noise = NoisePosterior(n_bands, correlated, heavy)
        return guide

    def learn_shared(self, endmembers: Tensor, noise_scale: Tensor, concentration: Tensor) -> None:
        """Take over what draws `(n_draws, ...)` say of what pixels share."""
        self.endmembers.match(endmembers)
        self.noise.match(noise_scale)
        self.head.learn_prior(concentration.mean(dim=0).to(self.noise.loc))

    def calibrate(self, exact: bool) -> None:
        """From here on only q(abundances) and q(brightness) are to be trained, as far as the head says: what the scene has said
        of the endmembers and the noise stays. `exact`: on truth that the guide did not make."""
        self.requires_grad_(False)
        for part in (self.head, self.brightness):
            if part is not None:
                part.requires_grad_(True)
        self.encoder.requires_grad_(self.head.calibrate(exact))

    def pixels(self, tiles: Tiles) -> tuple[TorchDistributionMixin, dist.LogNormal | None]:
        """q(abundances) and q(brightness) of the pixels that count, batch shape `(n_pixels,)`."""
        features = tiles.select(self.encoder(self.input(tiles.reflectance, tiles.valid), tiles.valid))
        estimate = self.estimate(tiles)
        return self.head(features, estimate), None if self.brightness is None else self.brightness(features, estimate.brightness)

    @torch.no_grad()
    def estimate(self, tiles: Tiles) -> LeastSquares:
        """Least squares of the pixels that count: where the guide starts from."""
        endmembers, noise, with_brightness = self.endmembers.loc(), self.noise.cholesky(), self.brightness is not None
        heavy = self.noise.degrees_of_freedom
        if self.denoise is not None and heavy is None and isinstance(self.mixing, Linear):
            denoised = tiles.select(self.denoise.coordinates(tiles.reflectance, tiles.valid))
            few = in_few_coordinates(denoised, self.denoise.mean, self.denoise.directions, endmembers, noise)
            return LeastSquares(*(each.to(denoised) for each in least_squares(*few, brightness=with_brightness)))
        pixels = tiles.select(tiles.reflectance if self.denoise is None else self.denoise(tiles.reflectance, tiles.valid))
        if heavy is not None:
            pixels = pulled_in(pixels, endmembers, self.noise.loc.exp(), heavy, with_brightness, self.mixing)
        return least_squares(pixels, endmembers, noise, brightness=with_brightness, mixing=self.mixing)

    def log_prob(self, tiles: Tiles, abundances: Tensor, brightness: Tensor | None) -> Tensor:
        """log q(abundances, brightness | tiles), `(n_pixels,)`; without the brightness where it is None."""
        q_abundances, q_brightness = self.pixels(tiles)
        log_prob = q_abundances.log_prob(abundances)
        return log_prob if q_brightness is None or brightness is None else log_prob + q_brightness.log_prob(brightness)

    def forward(self, tiles: Tiles) -> None:
        pyro.sample("endmembers", self.endmembers().to_event(1))
        pyro.sample("noise_scale", self.noise().to_event(1))
        abundances, brightness = self.pixels(tiles)
        _, labelled = tiles.known()
        with poutine.scale(scale=tiles.scale), pyro.plate("pixel", abundances.batch_shape[0]):
            with poutine.scale(scale=tiles.kl_weight):
                if labelled is None:
                    pyro.sample("abundances", abundances)
                else:  # so Pyro calls those of a site of which a part is observed
                    with poutine.mask(mask=cast(torch.BoolTensor, ~labelled)):
                        pyro.sample("abundances_unobserved", abundances)
                if brightness is not None:
                    pyro.sample("brightness", brightness)


def _identity(n: int, size: int) -> Tensor:
    """`(n, size, size)`. Of a tensor without memory `torch.eye` would import a compiler first, which takes a second."""
    matrices = torch.zeros(n, size, size)
    matrices.diagonal(dim1=1, dim2=2).fill_(1.0)
    return matrices


def _named(kinds: Mapping[str, Callable], part: Any, what: str) -> Any:
    """The part itself, or one made by its name."""
    if not isinstance(part, str):
        return part
    if part not in kinds:
        raise InputError(f"a {what} among {', '.join(kinds)}", f"'{part}'")
    return kinds[part]()
