"""K numbers a pixel say what all its bands say."""

from __future__ import annotations

import pytest
import torch

from pyro_unmix.likelihood import PixelLikelihood

N, K, L = 7, 3, 20


@pytest.mark.parametrize("correlated", [False, True])
def test_equals_the_density_of_all_bands(correlated):
    endmembers, pixels = torch.rand(K, L, dtype=torch.float64), torch.rand(N, L, dtype=torch.float64)
    x = torch.rand(5, N, K, dtype=torch.float64)
    scales = 0.1 + torch.rand(L, dtype=torch.float64)
    cholesky = torch.linalg.cholesky(0.1 * torch.rand(L, L, dtype=torch.float64).cov() + scales.diag()) if correlated else scales
    likelihood = PixelLikelihood.of(pixels, endmembers, cholesky)
    dense = torch.distributions.MultivariateNormal(x @ endmembers, scale_tril=cholesky if correlated else cholesky.diag())
    torch.testing.assert_close(likelihood.log_prob(x), dense.log_prob(pixels))
    assert likelihood.linear.shape == (N, K)  # no trace of the bands is left
