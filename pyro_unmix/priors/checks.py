"""Whatever may stand for a prior, made into one, and refused where it cannot be what it is meant to be."""

from __future__ import annotations

from collections.abc import Callable

import pyro.distributions as dist
import torch
from torch import Tensor, nn

from pyro_unmix.errors import InputError


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
