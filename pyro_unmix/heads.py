"""Distributions of a pixel's abundances on the simplex, given what the encoder saw and where least squares stands."""

from __future__ import annotations

import math

import pyro.distributions as dist
import torch
from pyro.distributions.torch_distribution import TorchDistributionMixin
from torch import Tensor, nn
from torch.distributions.transforms import StickBreakingTransform
from torch.nn import functional as F

from pyro_unmix.distributions import SimplexNormal
from pyro_unmix.errors import InputError
from pyro_unmix.least_squares import LeastSquares

# Added to every abundance of the estimate before its logarithm: less than any abundance that is told from zero.
_LEAST_ABUNDANCE = 1e-4
# Below it the divergence from a prior is no number in float32.
_LEAST_CONCENTRATION = 1e-3
# Of a calibrated Dirichlet.
_LEAST_PRECISION = 10.0
# From this concentration up a pole is taken for none.
_NO_POLE = 0.9


class Head(nn.Module):
    """q(abundances) of a pixel.

    A head starts at the least-squares estimate, silently: until it is trained, features change nothing. It says itself what of it
    is to be trained when; parameters that are to stay do not require a gradient.
    """

    settings: dict
    # Abundances below it count as this much in what the head learns from: a density without a pole would give all of itself for
    # the logarithms of what is nearly nothing.
    least = 0.0

    def build(self, n_features: int, n_endmembers: int) -> None:
        """Make the layers, now that their sizes are known."""
        raise NotImplementedError

    def forward(self, features: Tensor, estimate: LeastSquares) -> TorchDistributionMixin:
        """Distribution with batch shape `(n,)` and event shape `(n_endmembers,)`, from `features` `(n, n_features)`."""
        raise NotImplementedError

    def hold(self) -> None:
        """SVI begins, and least squares is already the most probable answer: keep the mean there.

        Nothing of the head is trained, unless it says otherwise.
        """
        self.requires_grad_(False)

    def calibrate(self, exact: bool) -> bool:
        """Training on pairs of truth and spectra begins, with a gradient for every parameter of the head. `exact`: their truth is
        drawn from nothing that the guide itself has said.

        Returns whether the features are to be trained too.
        """
        return True

    def learn_prior(self, concentration: Tensor) -> None:
        """What the scene says of the Dirichlet prior: `concentration` `(n_endmembers,)`. Heads need not care."""


class DirichletHead(Head):
    """q(abundances) = Dirichlet(floor + precision * mean), mean and precision both learned.

    Once calibrated, no floor is added and the precision is at least 10. Below that, `calibrated_floor` would take over the
    concentrations of all but the largest abundances: the mean would leave its place, and no gradient would lead back.

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

    def __init__(self, floor: float = 1.0, calibrated_floor: float = 0.01, max_precision: float = 1e4):
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

    def hold(self) -> None:
        self.mean.requires_grad_(False)

    def calibrate(self, exact: bool) -> bool:
        """Where truth is drawn from the guide the means stay, and so do the features: only the precision is to be trained."""
        self.calibrated.fill_(True)
        if not exact:
            self.hold()
        return exact

    def forward(self, features: Tensor, estimate: LeastSquares) -> dist.Dirichlet:
        log_estimate = (estimate.abundances + _LEAST_ABUNDANCE).log()
        lowest, highest = math.log(_LEAST_PRECISION), math.log(self.settings["max_precision"])
        log_precision = self.precision(torch.cat([features, log_estimate], dim=-1))
        if self.calibrated:
            log_precision = lowest + F.softplus(log_precision - lowest)
        precision = (highest - F.softplus(highest - log_precision)).exp()
        concentration = precision * torch.softmax(log_estimate + self.mean(features), dim=-1)
        if self.calibrated:
            return dist.Dirichlet(concentration.clamp_min(self.settings["calibrated_floor"]))
        return dist.Dirichlet(self.settings["floor"] + concentration)


class LogisticNormalHead(Head):
    """q(abundances): a multivariate normal of full covariance over K - 1 stick-breaking coordinates, taken to the simplex."""

    settings: dict = {}
    least = _LEAST_ABUNDANCE

    def build(self, n_features: int, n_endmembers: int) -> None:
        self.free = n_endmembers - 1
        self.layer = _silent_network(n_features + 2 * n_endmembers, self.free + self.free * (self.free + 1) // 2)

    def forward(self, features: Tensor, estimate: LeastSquares) -> TorchDistributionMixin:
        inside = estimate.abundances + _LEAST_ABUNDANCE
        coordinates = StickBreakingTransform().inv(inside / inside.sum(-1, keepdim=True))
        shift, below = self.layer(_described(features, estimate)).split([self.free, self.free * (self.free + 1) // 2], dim=-1)
        rows, cols = torch.tril_indices(self.free, self.free, device=below.device)
        factor = torch.zeros(*below.shape[:-1], self.free, self.free, dtype=below.dtype, device=below.device)
        factor[..., rows, cols] = below
        diagonal = F.softplus(factor.diagonal(dim1=-2, dim2=-1) - 1.0) + 1e-3
        factor = factor.tril(-1) + torch.diag_embed(diagonal)
        normal = dist.MultivariateNormal(coordinates + shift, scale_tril=factor)
        return dist.TransformedDistribution(normal, [StickBreakingTransform()])


class SimplexNormalHead(Head):
    """q(abundances) = `SimplexNormal`, standing at the unconstrained least-squares estimate and its covariance.

    There it is the exact posterior under a Dirichlet prior and known endmembers but for the truncation of one abundance after the
    other, the least certain to be positive first; shifts, scales and slopes that make up for it, and for everything else the
    simulated pairs hold, are learned.
    """

    settings: dict = {}
    concentration: Tensor

    def build(self, n_features: int, n_endmembers: int) -> None:
        self.n_endmembers = n_endmembers
        self.register_buffer("concentration", torch.ones(n_endmembers))
        n_pairs = n_endmembers * (n_endmembers - 1) // 2
        self.layer = _silent_network(n_features + 2 * n_endmembers, 2 * n_endmembers + n_pairs)

    def learn_prior(self, concentration: Tensor) -> None:
        # Next to one there is hardly a pole, and the closed form is faster.
        self.concentration.copy_(torch.where(concentration > _NO_POLE, 1.0, concentration))

    def forward(self, features: Tensor, estimate: LeastSquares) -> SimplexNormal:
        k = self.n_endmembers
        order = (estimate.free / _deviation(estimate)).argsort(dim=-1)
        drawn = order[..., :-1]
        covariance = _reordered(estimate.covariance.double(), drawn)
        variance = covariance.diagonal(dim1=-2, dim2=-1)
        factor = torch.linalg.cholesky(covariance + torch.diag_embed(1e-6 * variance + 1e-12))
        scale = factor.diagonal(dim1=-2, dim2=-1)
        identity = torch.eye(k - 1, dtype=factor.dtype, device=factor.device).expand_as(factor)
        slopes = (-scale[..., None] * torch.linalg.solve_triangular(factor, identity, upper=False)).tril(-1).to(features.dtype)
        scale = scale.to(features.dtype)

        shift, log_factor, pairs = self.layer(_described(features, estimate)).split([k, k, k * (k - 1) // 2], dim=-1)
        rows, cols = torch.tril_indices(k, k, -1, device=pairs.device)
        slope = pairs.new_zeros(*pairs.shape[:-1], k, k)
        slope[..., rows, cols] = slope[..., cols, rows] = pairs
        slopes = slopes + _reordered(slope, drawn).tril(-1) * scale[..., :, None] / scale[..., None, :]
        loc = estimate.free.gather(-1, drawn) + shift.gather(-1, drawn) * scale
        scale = scale * log_factor.gather(-1, drawn).clamp(-5.0, 5.0).exp()
        poles = None if (self.concentration == 1.0).all() else self.concentration[drawn]
        return SimplexNormal(loc, slopes, scale.clamp_min(1e-5), order, poles)


class SoftmaxHead(Head):
    """q(abundances) = Dirichlet(softmax(features)): concentrations that sum to one.

    The literal parameterisation of Chitnis, Mantripragada and Qureshi (2023), arXiv 2311.10701. Nothing is known of a pixel but
    the features, and the total concentration is one however sure the mean: a draw is nearly pure whatever the pixel is.
    """

    settings: dict = {}

    def build(self, n_features: int, n_endmembers: int) -> None:
        self.layer = nn.Linear(n_features, n_endmembers)

    def hold(self) -> None:
        """There is no least-squares estimate to stay at: all of it is trained."""

    def forward(self, features: Tensor, estimate: LeastSquares) -> dist.Dirichlet:
        return dist.Dirichlet(torch.softmax(self.layer(features), dim=-1).clamp_min(_LEAST_CONCENTRATION))


HEADS: dict[str, type[Head]] = {"dirichlet": DirichletHead, "logistic-normal": LogisticNormalHead,
                                "simplex-normal": SimplexNormalHead, "softmax": SoftmaxHead}


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


def _deviation(estimate: LeastSquares) -> Tensor:
    """Standard deviation of the free estimate, `(n, n_endmembers)`."""
    return estimate.covariance.diagonal(dim1=-2, dim2=-1).clamp_min(1e-12).sqrt()


def _described(features: Tensor, estimate: LeastSquares) -> Tensor:
    """`features`, the constrained estimate, and how many standard deviations of the noise the free one is from zero."""
    return torch.cat([features, estimate.abundances, (estimate.free / _deviation(estimate)).asinh()], dim=-1)


def _reordered(matrices: Tensor, order: Tensor) -> Tensor:
    """Rows and columns `order` `(n, m)` of `matrices` `(n, k, k)`."""
    return matrices.take_along_dim(order[:, :, None], dim=1).take_along_dim(order[:, None, :], dim=2)


def _silent_network(n_inputs: int, n_outputs: int) -> nn.Sequential:
    """Two hidden layers, and a last one that says nothing until it is trained."""
    return nn.Sequential(nn.Linear(n_inputs, 64), nn.GELU(), nn.Linear(64, 64), nn.GELU(), _silent_layer(64, n_outputs))
