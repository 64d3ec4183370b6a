"""What is believed before the scene is seen: priors of abundances and of endmembers.

An abundance prior is any callable that takes the number of endmembers and returns a Pyro distribution on the simplex, or such
a distribution itself. An endmember prior is a distribution over `(n_endmembers, n_bands)`, or a callable that takes
these two numbers.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
import pyro.distributions as dist
import torch
from torch import Tensor, nn

from pyro_unmix.errors import InputError


class Dirichlet(nn.Module):
    """Dirichlet prior of the abundances.

    Parameters
    ----------
    concentration
        One number for all endmembers, or one each. 1 is flat on the simplex, below 1 favours few materials a pixel,
        above 1 favours even mixtures. Below about 0.1 float32 draws degenerate.
    learned
        Whether the scene may say otherwise, endmember by endmember, where its noise is white.
    """

    concentration: Tensor

    def __init__(self, concentration: float | Sequence[float] = 1.0, learned: bool = False):
        super().__init__()
        values = torch.as_tensor(concentration, dtype=torch.float32)
        if values.ndim > 1 or not (values > 0).all() or not torch.isfinite(values).all():
            raise InputError("a positive concentration, one number or one an endmember", f"{concentration}")
        self.settings = {"concentration": torch.as_tensor(concentration, dtype=torch.float64).tolist(), "learned": bool(learned)}
        self.learned = bool(learned)
        self.register_buffer("concentration", values)

    @property
    def flat(self) -> bool:
        """Whether no abundances are more probable than others."""
        return bool((self.concentration == 1.0).all())

    def forward(self, n_endmembers: int) -> dist.Dirichlet:
        if self.concentration.ndim and len(self.concentration) != n_endmembers:
            raise InputError(f"{n_endmembers} concentrations, one an endmember", f"{len(self.concentration)}")
        return dist.Dirichlet(self.concentration.expand(n_endmembers))


class MVNEndmembers(nn.Module):
    """Multivariate-normal prior of the endmembers, independent between endmembers, smooth over wavelength.

    Parameters
    ----------
    mean
        `(n_endmembers, n_bands)`, in the unit of the scene.
    scale_tril
        `(n_bands, n_bands)` or `(n_endmembers, n_bands, n_bands)`: lower Cholesky factor of the covariance;
        `smooth_scale_tril` makes one.
    """

    settings: dict = {}
    mean: Tensor
    scale_tril: Tensor

    def __init__(self, mean: Tensor | np.ndarray, scale_tril: Tensor | np.ndarray):
        super().__init__()
        mean, scale_tril = (torch.as_tensor(np.asarray(a), dtype=torch.float32) for a in (mean, scale_tril))
        bands = mean.shape[-1:]
        if mean.ndim != 2 or scale_tril.shape not in {bands + bands, mean.shape + bands}:
            raise InputError("a mean (n_endmembers, n_bands) and a Cholesky factor (n_bands, n_bands) or one an endmember",
                             f"shapes {tuple(mean.shape)} and {tuple(scale_tril.shape)}")
        self.register_buffer("mean", mean)
        self.register_buffer("scale_tril", scale_tril)

    @property
    def of_one_kernel(self) -> bool:
        """Whether the covariances of all endmembers are proportional to each other."""
        if self.scale_tril.ndim == 2:
            return True
        relative = self.scale_tril / self.scale_tril[:, :1, :1]
        return torch.allclose(relative, relative[:1].expand_as(relative), rtol=1e-4, atol=1e-4)

    def forward(self, n_endmembers: int, n_bands: int) -> dist.Distribution:
        if self.mean.shape != (n_endmembers, n_bands):
            raise InputError(f"endmember means of shape ({n_endmembers}, {n_bands})", f"{tuple(self.mean.shape)}",
                             "give as many spectra as endmembers, on the bands of the scene")
        return dist.MultivariateNormal(self.mean, scale_tril=self.scale_tril).to_event(1)


def smooth_scale_tril(wavelengths: np.ndarray | None, n_bands: int, sd: float, *, length_scale: float = 100.0,
                      nugget: float = 0.01) -> Tensor:
    """Cholesky factor `(n_bands, n_bands)` of a covariance that is smooth over wavelength.

    sd^2 * ((1 - nugget) * Matern-3/2(distance / length_scale) + nugget * identity): Rasmussen and Williams (2006),
    Gaussian Processes for Machine Learning, eq. 4.17.

    Parameters
    ----------
    wavelengths
        `(n_bands,)` in nm, in any order. None: bands are taken as 10 nm apart.
    sd
        Standard deviation in every band, in the unit of the scene.
    length_scale
        In nm.
    nugget
        Share of the variance that is independent from band to band.
    """
    if not (sd > 0 and length_scale > 0 and 0 < nugget <= 1):
        raise InputError("positive sd and length_scale, and a nugget in (0, 1]",
                         f"sd {sd}, length_scale {length_scale}, nugget {nugget}")
    position = 10.0 * np.arange(n_bands) if wavelengths is None else np.asarray(wavelengths, dtype=np.float64)
    scaled = np.sqrt(3.0) * np.abs(position[:, None] - position[None, :]) / length_scale
    covariance = (1 - nugget) * (1 + scaled) * np.exp(-scaled) + nugget * np.eye(n_bands)
    # Factorised in float64: in float32 a smooth covariance of 200 bands is no longer positive definite.
    return torch.as_tensor(sd * np.linalg.cholesky(covariance), dtype=torch.float32)


class CustomPrior(nn.Module):
    """A distribution or a callable given by the user, as a prior."""

    _where: Tensor

    def __init__(self, make: dist.Distribution | Callable[..., dist.Distribution]):
        super().__init__()
        self._make = make
        self.register_buffer("_where", torch.zeros(()), persistent=False)

    def forward(self, *shape: int) -> dist.Distribution:
        if isinstance(self._make, torch.distributions.Distribution):
            return self._make
        with torch.device(self._where.device):  # so that tensors made by a plain callable follow the model to a GPU
            return self._make(*shape)


def as_prior(prior: nn.Module | dist.Distribution | Callable) -> nn.Module:
    """Wrap whatever may stand for a prior into a module."""
    if isinstance(prior, nn.Module):
        return prior
    if isinstance(prior, torch.distributions.Distribution) or callable(prior):
        return CustomPrior(prior)
    raise InputError("a prior: an object of pyro_unmix.priors, a Pyro distribution or a callable that returns one",
                     f"{type(prior).__name__}")


def _draw(prior: nn.Module, shape: tuple[int, ...], what: str) -> Tensor:
    """64 draws from a prior, the state of the random numbers left as it was."""
    try:
        with torch.random.fork_rng(devices=[]), torch.no_grad():
            made = prior(*shape)
            draws = made.sample(torch.Size([64])) if isinstance(made, dist.Distribution) else None
    except InputError:
        raise
    except Exception as error:  # whatever a user's callable raises, retold with what it had to do
        reason = f"{type(error).__name__}: {error}".splitlines()[0]
        raise InputError(f"{what} that can be drawn from with {shape}", reason, "it must return a Pyro distribution") from error
    if draws is None:
        raise InputError(f"{what} that returns a Pyro distribution", f"a {type(made).__module__}.{type(made).__name__}",
                         "take it from pyro.distributions")
    if made.event_shape != shape or made.batch_shape:
        raise InputError(f"{what} with event shape {shape} and no batch shape",
                         f"event shape {tuple(made.event_shape)} and batch shape {tuple(made.batch_shape)}",
                         "to_event() turns a batch into an event")
    if not torch.isfinite(draws).all():
        raise InputError(f"{what} with finite draws", "a draw that is not")
    return draws


def check_abundance_prior(prior: nn.Module, n_endmembers: int) -> None:
    """Draw from an abundance prior once and see that it lives on the simplex.

    Raises
    ------
    InputError
        No Pyro distribution over `(n_endmembers,)`, or draws that are negative, not finite, or do not sum to one.
    """
    draws = _draw(prior, (n_endmembers,), f"an abundance prior over {n_endmembers} endmembers")
    wrong = draws[(draws < 0).any(-1) | ((draws.sum(-1) - 1).abs() > 1e-4)]
    if len(wrong):
        raise InputError("an abundance prior on the simplex (draws >= 0 that sum to one)",
                         f"a draw {[round(v, 4) for v in wrong[0].tolist()]} with sum {wrong[0].sum():.4f}",
                         "use a Dirichlet, or a transform that ends on the simplex")


def check_endmember_prior(prior: nn.Module, n_endmembers: int, n_bands: int) -> None:
    """Draw from an endmember prior once and see that it has the right shape and is finite.

    Raises
    ------
    InputError
        No Pyro distribution over `(n_endmembers, n_bands)`, or draws that are not finite.
    """
    _draw(prior, (n_endmembers, n_bands), "an endmember prior")
