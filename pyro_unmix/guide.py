"""The amortised posterior: an encoder, a head on the simplex, and what is known of endmembers and noise."""

from __future__ import annotations

import copy
import math
from collections.abc import Callable

import pyro
import pyro.distributions as dist
import torch
from pyro import poutine
from pyro.nn import PyroModule
from torch import Tensor, nn
from torch.nn import functional as F

from pyro_unmix.baselines.fcls import fcls, nnls
from pyro_unmix.denoise import NonLocalMeans
from pyro_unmix.encoders import ConvEncoder, Encoder, PixelEncoder, SpatialAttentionEncoder
from pyro_unmix.errors import InputError
from pyro_unmix.initialize import Start
from pyro_unmix.tiles import Tiles

ENCODERS: dict[str, Callable[[], Encoder]] = {"spacnn": SpatialAttentionEncoder, "cnn": ConvEncoder, "mlp": PixelEncoder}


# Added to every abundance of the estimate before its logarithm: less than any abundance that is told from zero.
_LEAST_ABUNDANCE = 1e-4


class DirichletHead(nn.Module):
    """q(abundances) = Dirichlet(floor + precision * mean), mean and precision both learned.

    Parameters
    ----------
    floor
        Added to every concentration. At 1 no marginal has a pole, and draws and their gradients stay finite; lower values let
        `Trace_ELBO` end in NaN.
    calibrated_floor
        From calibration on, where no gradient passes through a draw, the least concentration instead. A wide distribution then
        keeps a mean near a face, which an added floor would move inside.
    max_precision
        Soft upper bound of the precision.
    """

    calibrated: Tensor

    def __init__(self, floor: float = 1.0, calibrated_floor: float = 0.02, max_precision: float = 1e4):
        super().__init__()
        if not (floor > 0 and calibrated_floor > 0 and max_precision > 1):
            raise InputError("positive floors and a max_precision above 1", f"{floor}, {calibrated_floor}, {max_precision}")
        self.settings = {"floor": floor, "calibrated_floor": calibrated_floor, "max_precision": max_precision}

    def build(self, n_features: int, n_endmembers: int) -> None:
        self.register_buffer("calibrated", torch.tensor(False))
        self.mean = _silent_layer(n_features, n_endmembers)
        last = _silent_layer(32, 1)
        last.bias.data.fill_(math.log(100.0))  # a precision to start from: a standard deviation of a few percent
        self.precision = nn.Sequential(nn.Linear(n_features + n_endmembers, 32), nn.GELU(), last)

    def hold_mean(self) -> None:
        """Train the precision alone."""
        self.mean.requires_grad_(False)

    def calibrate(self) -> None:
        """From here on only the precision is to be trained, and no gradient passes through a draw."""
        self.hold_mean()
        self.calibrated.fill_(True)

    def forward(self, features: Tensor, estimate: Tensor) -> dist.Dirichlet:
        """Distribution of the abundances `(n_pixels, n_endmembers)`.

        `features` `(n_pixels, n_features)` say how the mean departs from `estimate` `(n_pixels, n_endmembers)`, and how
        sure it is.
        """
        log_estimate = (estimate + _LEAST_ABUNDANCE).log()
        highest = math.log(self.settings["max_precision"])
        log_precision = self.precision(torch.cat([features, log_estimate], dim=-1))
        precision = (highest - F.softplus(highest - log_precision)).exp()
        concentration = precision * torch.softmax(log_estimate + self.mean(features), dim=-1)
        if self.calibrated:
            return dist.Dirichlet(concentration.clamp_min(self.settings["calibrated_floor"]))
        return dist.Dirichlet(self.settings["floor"] + concentration)


class BrightnessHead(nn.Module):
    """q(brightness) = LogNormal(loc, scale), one a pixel."""

    def build(self, n_features: int) -> None:
        self.layer = _silent_layer(n_features, 2)

    def forward(self, features: Tensor, estimate: Tensor) -> dist.LogNormal:
        """Distribution of the factor `(n_pixels,)`; `features` say how it departs from `estimate` `(n_pixels,)`."""
        shift, log_scale = self.layer(features).unbind(-1)
        return dist.LogNormal(estimate.log() + shift, F.softplus(log_scale - 3.0) + 1e-4)


def _silent_layer(n_inputs: int, n_outputs: int) -> nn.Linear:
    """A layer that says nothing until it is trained."""
    layer = nn.Linear(n_inputs, n_outputs)
    nn.init.zeros_(layer.weight)
    nn.init.zeros_(layer.bias)
    return layer


def least_squares(pixels: Tensor, endmembers: Tensor, brightness: bool) -> tuple[Tensor, Tensor]:
    """Point estimate of abundances `(n_pixels, n_endmembers)` and brightness `(n_pixels,)` given the endmembers.

    With brightness, non-negative least squares divided by its sum; without, fully constrained least squares.
    """
    if not brightness:
        return fcls(pixels, endmembers, iterations=50), torch.ones(len(pixels), device=pixels.device)
    coefficients = nnls(pixels, endmembers, iterations=50)
    total = coefficients.sum(dim=-1)
    # A pixel darker than anything says nothing about its materials.
    abundances = torch.where(total[:, None] > 1e-9, coefficients / total.clamp_min(1e-9)[:, None], 1.0 / len(endmembers))
    return abundances, total.clamp_min(1e-9)


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
        shape = torch.einsum("pl,blhw->bphw", self.components, reflectance / norm - self.mean[:, None, None])
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
        self.register_buffer("scale_tril", torch.eye(n_bands).repeat(n_endmembers, 1, 1))
        self.shift = nn.Parameter(torch.zeros(n_endmembers, n_bands))
        self.log_scale = nn.Parameter(torch.zeros(n_endmembers, n_bands))

    def set_start(self, start: Start) -> None:
        self.mean.copy_(start.endmembers)
        self.scale_tril.copy_(start.endmember_scale_tril)

    def loc(self) -> Tensor:
        """Posterior mean, `(n_endmembers, n_bands)`."""
        return self.mean + (self.scale_tril @ self.shift[..., None]).squeeze(-1)

    def forward(self) -> dist.MultivariateNormal:
        """Distribution with batch shape `(n_endmembers,)` and event shape `(n_bands,)`."""
        return dist.MultivariateNormal(self.loc(), scale_tril=self.scale_tril * self.log_scale.exp()[:, None, :])


class NoisePosterior(nn.Module):
    """q(noise_scale) = LogNormal, one a band."""

    def __init__(self, n_bands: int):
        super().__init__()
        self.loc = nn.Parameter(torch.zeros(n_bands))
        self.log_scale = nn.Parameter(torch.full((n_bands,), -3.0))

    def set_start(self, start: Start) -> None:
        self.loc.data.copy_(start.noise_scale.log())

    def forward(self) -> dist.LogNormal:
        return dist.LogNormal(self.loc, self.log_scale.exp())


class UnmixingGuide(PyroModule):
    """The guide of `UnmixingModel`: q(endmembers) q(noise_scale) prod_n q(abundances_n, brightness_n | pixel and neighbours).

    Parameters
    ----------
    encoder
        "spacnn", "cnn", "mlp", or an `Encoder`.
    head
        Distribution of the abundances given the features. None: `DirichletHead()`.

    A guide made here is a plan. `bind` makes a trained copy's layers for one scene and leaves the plan as it is, so that one
    plan serves many fits that do not touch each other.
    """

    encoder: Encoder
    head: DirichletHead
    brightness: BrightnessHead | None
    denoise: NonLocalMeans | None
    input: SpectrumInput
    endmembers: EndmemberPosterior
    noise: NoisePosterior

    def __init__(self, encoder: str | Encoder = "spacnn", head: DirichletHead | None = None):
        super().__init__()
        if isinstance(encoder, str):
            if encoder not in ENCODERS:
                raise InputError(f"a guide among {', '.join(ENCODERS)}", f"'{encoder}'")
            encoder = ENCODERS[encoder]()
        self.encoder = encoder
        self.head = head if head is not None else DirichletHead()
        self.brightness = self.denoise = None

    @property
    def halo(self) -> int:
        """Pixels of context that a tile needs on every side to be exact."""
        return max(self.encoder.receptive_field // 2, NonLocalMeans.halo)

    def bind(self, start: Start) -> UnmixingGuide:
        """A copy made for one scene, standing at its start: what to train."""
        k, n_bands = start.endmembers.shape
        guide = self.build(k, n_bands, len(start.components), brightness=start.brightness is not None,
                           denoise=start.denoise is not None)
        guide.denoise = copy.deepcopy(start.denoise)
        for part in (guide.input, guide.endmembers, guide.noise):
            part.set_start(start)
        return guide

    def build(
        self, n_endmembers: int, n_bands: int, n_components: int, *, brightness: bool, denoise: bool
    ) -> UnmixingGuide:
        """A copy with layers of these sizes, to be filled by `bind` or `load_state_dict`."""
        guide = copy.deepcopy(self)
        guide.input = SpectrumInput(n_bands, n_components)
        guide.encoder.build(n_components + 1)
        guide.head.build(guide.encoder.n_features, n_endmembers)
        guide.denoise = NonLocalMeans(n_bands, min(n_endmembers + 2, n_bands)) if denoise else None
        guide.brightness = None
        if brightness:
            guide.brightness = BrightnessHead()
            guide.brightness.build(guide.encoder.n_features)
        guide.endmembers = EndmemberPosterior(n_endmembers, n_bands)
        guide.noise = NoisePosterior(n_bands)
        return guide

    def calibrate(self) -> None:
        """From here on only the widths of q(abundances) and q(brightness) are to be trained: what the scene has said of the mean,
        the endmembers and the noise stays."""
        self.requires_grad_(False)
        for part in (self.head, self.brightness):
            if part is not None:
                part.requires_grad_(True)
        self.head.calibrate()

    def pixels(self, tiles: Tiles) -> tuple[dist.Dirichlet, dist.LogNormal | None]:
        """q(abundances) and q(brightness) of the pixels that count, batch shape `(n_pixels,)`."""
        features = tiles.select(self.encoder(self.input(tiles.reflectance, tiles.valid), tiles.valid))
        abundances, brightness = self.estimate(tiles)
        return self.head(features, abundances), None if self.brightness is None else self.brightness(features, brightness)

    @torch.no_grad()
    def estimate(self, tiles: Tiles) -> tuple[Tensor, Tensor]:
        """Least-squares abundances `(n_pixels, n_endmembers)` and brightness `(n_pixels,)`, where the encoder starts from."""
        reflectance = tiles.reflectance if self.denoise is None else self.denoise(tiles.reflectance, tiles.valid)
        return least_squares(tiles.select(reflectance), self.endmembers.loc(), self.brightness is not None)

    def log_prob(self, tiles: Tiles, abundances: Tensor, brightness: Tensor | None) -> Tensor:
        """log q(abundances, brightness | tiles), `(n_pixels,)`."""
        q_abundances, q_brightness = self.pixels(tiles)
        log_prob = q_abundances.log_prob(abundances)
        return log_prob if q_brightness is None else log_prob + q_brightness.log_prob(brightness)

    def forward(self, tiles: Tiles) -> None:
        pyro.sample("endmembers", self.endmembers().to_event(1))
        pyro.sample("noise_scale", self.noise().to_event(1))
        abundances, brightness = self.pixels(tiles)
        with poutine.scale(scale=tiles.scale), pyro.plate("pixel", abundances.batch_shape[0]):
            with poutine.scale(scale=tiles.kl_weight):
                pyro.sample("abundances", abundances)
                if brightness is not None:
                    pyro.sample("brightness", brightness)
