"""How the spectrum of a material differs from pixel to pixel."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
import torch
from pyro.distributions.torch_distribution import TorchDistribution
from torch import Tensor, nn
from torch.distributions import constraints

from pyro_unmix.errors import InputError
from pyro_unmix.library import SpectralLibrary
from pyro_unmix.likelihood import PixelLikelihood, whiten

_ONE = torch.Size()
# Pixels worked on at a time, and rounds of telling noise from variability.
_WORKING, _ROUNDS = 2**14, 40


class Variability(nn.Module):
    """Every pixel has endmembers of its own, normal around those of the scene: the normal compositional model.

    Endmember k of pixel n is m_k + F_k^T e_nk with e_nk ~ N(0, I), so that the pixel is normal around its mixture with covariance
    noise + sum_k (s_n z_nk)^2 F_k^T F_k: Stein (2003), IEEE Workshop on Advances in Techniques for Analysis of Remotely Sensed
    Data, "Application of the normal compositional model to the analysis of hyperspectral imagery"; Eches, Dobigeon, Mailhes and
    Tourneret (2010), IEEE TIP 19, eqs. 2 to 4, there with one variance for all bands. A kind of variability says what F is.
    """

    settings: dict

    def factors(self, endmembers: Tensor) -> Tensor:
        """F, `(n_endmembers, rank, n_bands)`, in the unit of `endmembers` `(n_endmembers, n_bands)`."""
        raise NotImplementedError

    def likelihood(self, mean: Tensor, amounts: Tensor, endmembers: Tensor, noise_cholesky: Tensor) -> VariedNormal:
        """Distribution of spectra around `mean` `(..., n_bands)`; `amounts` `(..., n_endmembers)` are brightness times
        abundances.

        `noise_cholesky`: lower factor `(n_bands, n_bands)` of the noise, or its standard deviations `(n_bands,)`.
        """
        factors = self.factors(endmembers)
        return VariedNormal(mean, amounts.repeat_interleave(factors.shape[1], dim=-1), factors.flatten(0, 1), noise_cholesky,
                            validate_args=False)

    def log_prob(self, pixels: Tensor, amounts: Tensor, endmembers: Tensor, noise_cholesky: Tensor) -> Tensor:
        """Log density `(..., n)` of `pixels` `(n, n_bands)` given `amounts` `(..., n, n_endmembers)`: that of `likelihood`
        around linear mixtures, at a cost that does not depend on the number of bands."""
        factors = self.factors(endmembers)
        rank = factors.shape[1]
        white, white_endmembers, white_pixels = (whiten(rows, noise_cholesky)
                                                 for rows in (factors.flatten(0, 1), endmembers, pixels))
        seen, mixed = white_pixels @ white.T, white_endmembers @ white.T
        found = PixelLikelihood.of(pixels, endmembers, noise_cholesky).log_prob(amounts)
        each = amounts.repeat_interleave(rank, dim=-1)
        residual = each * (seen - amounts @ mixed)
        gain = [_gain(r, u, white @ white.T) for r, u in zip(residual.flatten(0, -2).split(_WORKING),
                                                             each.flatten(0, -2).split(_WORKING), strict=True)]
        return found + torch.cat(gain).reshape(found.shape)

    def of_pixel(self, pixel: Tensor, amounts: Tensor, endmembers: Tensor, noise_cholesky: Tensor) -> tuple[Tensor, Tensor]:
        """Mean and variance `(n_endmembers, n_bands)` of the endmembers of a `pixel` `(n_bands,)` given its `amounts`
        `(n_endmembers,)`: the normal distribution of the factors given the spectrum, in closed form."""
        factors = self.factors(endmembers)
        k, rank, _ = factors.shape
        white, each = whiten(factors.flatten(0, 1), noise_cholesky), amounts.repeat_interleave(rank)
        residual = each * (white @ whiten((pixel - amounts @ endmembers)[None], noise_cholesky)[0])
        covariance = torch.linalg.inv(_capacitance(each, white @ white.T))
        moved = ((covariance @ residual).reshape(k, rank, 1) * factors).sum(dim=1)
        own = covariance.reshape(k, rank, k, rank).diagonal(dim1=0, dim2=2).movedim(-1, 0)
        return endmembers + moved, torch.einsum("krl,krs,ksl->kl", factors, own, factors)

    @torch.no_grad()
    def noise_beside(self, residual: np.ndarray, amounts: np.ndarray, endmembers: np.ndarray, floor: float) -> np.ndarray:
        """Standard deviations `(n_bands,)`, at least `floor`, of independent noise that leaves, with this variability, a
        `residual` `(n, n_bands)` of pixels of `amounts` `(n, n_endmembers)`. By the EM algorithm of factor analysis (Rubin and
        Thayer 1982, Psychometrika 47), the loadings known."""
        rows, u, spectra = (torch.as_tensor(each, dtype=torch.float64) for each in (residual, amounts, endmembers))
        factors = self.factors(spectra)
        each, loadings = u.repeat_interleave(factors.shape[1], dim=-1), factors.flatten(0, 1)
        variance = 0.1 * rows.square().mean(dim=0).clamp_min(floor**2)
        for _ in range(_ROUNDS):
            white = loadings / variance
            covariance = torch.linalg.inv(_capacitance(each, white @ loadings.T))
            scores = each * (covariance @ (each * (rows @ white.T))[..., None]).squeeze(-1)
            unsure = (each[:, :, None] * covariance * each[:, None, :]).mean(dim=0)
            variance = (rows - scores @ loadings).square().mean(dim=0) + (loadings * (unsure @ loadings)).sum(dim=0)
            variance = variance.clamp_min(floor**2)
        return variance.sqrt().numpy()


class LowRankVariability(Variability):
    """Factors that are given, or come from a bundle: several measured spectra of each material.

    Parameters
    ----------
    factors
        `(n_endmembers, rank, n_bands)`, in the unit of the scene: an endmember's covariance is factors^T factors. None: to be
        read from a saved state.

    Raises
    ------
    InputError
        Another shape, or values that are not finite.
    """

    loadings: Tensor

    def __init__(self, factors: Tensor | np.ndarray | None = None):
        super().__init__()
        self.settings = {}
        loadings = torch.as_tensor(np.full((1, 1, 1), math.nan) if factors is None else np.array(factors), dtype=torch.float32)
        if factors is not None and (loadings.ndim != 3 or not loadings.numel() or not loadings.isfinite().all()):
            raise InputError("finite factors (n_endmembers, rank, n_bands)", f"an array of shape {tuple(loadings.shape)}")
        self.register_buffer("loadings", loadings)

    @classmethod
    def from_bundle(cls, bundle: SpectralLibrary | Sequence[np.ndarray], names: Sequence[str] | None = None,
                    rank: int = 2) -> LowRankVariability:
        """The leading principal components of each material's spectra around their mean.

        Parameters
        ----------
        bundle
            A library that holds several spectra under one name, or for each endmember an array `(n_spectra, n_bands)`; in the
            unit of the scene and on its bands.
        names
            Of the endmembers, in their order, where a library is given. None: in the order in which the library has them.
        rank
            Components of each material; what a smaller bundle lacks is zero.

        Raises
        ------
        InputError
            Fewer than two spectra of a material, a name that the library does not have, shapes that do not agree, or a rank
            below 1.
        """
        if isinstance(bundle, SpectralLibrary):
            names = list(dict.fromkeys(bundle.names)) if names is None else list(names)
            bundle = [bundle.spectra[[each == name for each in bundle.names]] for name in names]
        spectra = [np.asarray(each, dtype=np.float64) for each in bundle]
        if rank < 1 or not spectra or any(each.ndim != 2 or len(each) < 2 or each.shape[1] != spectra[0].shape[-1]
                                          for each in spectra):
            raise InputError("a rank of 1 or more, and of each material two spectra or more on the same bands",
                             f"rank {rank} and shapes {[each.shape for each in spectra]}",
                             "leave materials of one spectrum out, or use EndmemberBrightness")
        factors = np.zeros((len(spectra), rank, spectra[0].shape[1]))
        for found, each in zip(factors, spectra, strict=True):
            values, directions = np.linalg.svd((each - each.mean(axis=0)) / math.sqrt(len(each) - 1), full_matrices=False)[1:]
            kept = min(rank, len(each) - 1, each.shape[1])
            found[:kept] = values[:kept, None] * directions[:kept]
        return cls(factors)

    def factors(self, endmembers: Tensor) -> Tensor:
        """F, `(n_endmembers, rank, n_bands)`."""
        if (self.loadings.shape[0], self.loadings.shape[2]) != tuple(endmembers.shape):
            raise InputError(f"factors of {endmembers.shape[0]} endmembers and {endmembers.shape[1]} bands",
                             f"shape {tuple(self.loadings.shape)}", "take the bundle on the bands of the scene")
        return self.loadings.to(endmembers)


class EndmemberBrightness(Variability):
    """Every endmember has in every pixel a factor of its own around one: shading or grain size that differs between materials.

    The extended linear mixing model of Drumetz, Veganzones, Henrot, Phlypo, Chanussot and Jutten (2016), IEEE TIP 25, eq. 3, with
    normal scaling factors: the special case F_k = sd_k m_k of rank one.

    Parameters
    ----------
    sd
        Standard deviation of the factor, one number or one an endmember.

    Raises
    ------
    InputError
        A standard deviation that is not positive, or not below one.
    """

    sd: Tensor

    def __init__(self, sd: float | Sequence[float] = 0.1):
        super().__init__()
        values = torch.as_tensor(sd, dtype=torch.float32)
        if values.ndim > 1 or not ((values > 0) & (values < 1)).all():
            raise InputError("standard deviations between 0 and 1, one or one an endmember", f"{sd}",
                             "the factor is normal around one, and would often be negative")
        self.settings = {"sd": torch.as_tensor(sd, dtype=torch.float64).tolist()}
        self.register_buffer("sd", values)

    def factors(self, endmembers: Tensor) -> Tensor:
        """F, `(n_endmembers, 1, n_bands)`."""
        if self.sd.ndim and len(self.sd) != len(endmembers):
            raise InputError(f"{len(endmembers)} standard deviations, one an endmember", f"{len(self.sd)}")
        return (self.sd.to(endmembers).expand(len(endmembers))[:, None] * endmembers)[:, None]


class VariedNormal(TorchDistribution):
    """Normal spectra of which each has its own amounts of the same factors, and noise that all have in common.

    Covariance noise + factors^T diag(amounts)^2 factors; inverted by the formula of Woodbury (1950), so that a spectrum costs its
    whitening and a matrix of as many rows as factors.

    Parameters
    ----------
    loc, amounts
        `(..., n_bands)` and `(..., n_factors)`.
    factors
        `(n_factors, n_bands)`.
    noise_cholesky
        Lower factor `(n_bands, n_bands)`, or standard deviations `(n_bands,)`.
    """

    arg_constraints = {"loc": constraints.real_vector, "amounts": constraints.real_vector}
    support = constraints.real_vector
    has_rsample = True

    def __init__(self, loc: Tensor, amounts: Tensor, factors: Tensor, noise_cholesky: Tensor, validate_args: bool | None = None):
        self.loc, self.amounts, self.factors, self.noise_cholesky = loc, amounts, factors, noise_cholesky
        super().__init__(loc.shape[:-1], loc.shape[-1:], validate_args=validate_args)

    def expand(self, batch_shape, _instance=None) -> VariedNormal:
        amounts = self.amounts.expand(*batch_shape, len(self.factors))
        return VariedNormal(self.loc.expand(*batch_shape, *self.event_shape), amounts, self.factors, self.noise_cholesky,
                            validate_args=False)

    @property
    def mean(self) -> Tensor:
        return self.loc

    @property
    def variance(self) -> Tensor:
        noise = self.noise_cholesky.square()
        return (noise if noise.ndim == 1 else noise.sum(dim=1)) + self.amounts.square() @ self.factors.square()

    def rsample(self, sample_shape=_ONE) -> Tensor:
        shape = self._extended_shape(torch.Size(sample_shape))
        noise, scores = torch.randn(shape).to(self.loc), torch.randn(*shape[:-1], len(self.factors)).to(self.loc)
        noise = self.noise_cholesky * noise if self.noise_cholesky.ndim == 1 else noise @ self.noise_cholesky.T
        return self.loc + noise + (self.amounts * scores) @ self.factors

    def log_prob(self, value: Tensor) -> Tensor:
        apart = torch.broadcast_tensors(value - self.loc, self.loc)[0]
        white, factors = (whiten(rows, self.noise_cholesky) for rows in (apart.reshape(-1, apart.shape[-1]), self.factors))
        amounts = self.amounts.expand(*apart.shape[:-1], len(factors)).reshape(len(white), -1)
        scales = self.noise_cholesky if self.noise_cholesky.ndim == 1 else self.noise_cholesky.diagonal()
        normal = -0.5 * white.square().sum(dim=-1) - scales.log().sum() - 0.5 * len(scales) * math.log(2 * math.pi)
        return (normal + _gain(amounts * (white @ factors.T), amounts, factors @ factors.T)).reshape(apart.shape[:-1])


def _capacitance(amounts: Tensor, gram: Tensor) -> Tensor:
    """`(n, p, p)`: precision of p factors given a spectrum, `amounts` `(n, p)` of them, `gram` `(p, p)` their products in white
    noise."""
    return torch.eye(len(gram)).to(gram) + amounts[..., :, None] * gram * amounts[..., None, :]


def _gain(residual: Tensor, amounts: Tensor, gram: Tensor) -> Tensor:
    """What factors add to a log density of white noise, `(n,)`, from the products `residual` `(n, p)` of amounts, factors and
    white residual."""
    factor = torch.linalg.cholesky(_capacitance(amounts, gram))
    explained = torch.linalg.solve_triangular(factor, residual[..., None], upper=False).squeeze(-1)
    return 0.5 * explained.square().sum(dim=-1) - factor.diagonal(dim1=-2, dim2=-1).log().sum(dim=-1)
