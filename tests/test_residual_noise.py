"""The covariance of the noise is found where no mixture reaches, and chosen by evidence."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from pyro_unmix.errors import InputError
from pyro_unmix.likelihood import PixelLikelihood
from pyro_unmix.noise import DiagonalNoise, LowRankNoise, SmoothNoise, smooth_correlation
from pyro_unmix.numerics import seeded
from pyro_unmix.residual_noise import _factors, _residuals, _stationary, noise_of_residuals
from pyro_unmix.simulate import absorption_spectra

K, L = 3, 60
LENGTH_SCALE, SHARE = 50.0, 0.9  # bands are 10 nm apart
KINDS = {"white": DiagonalNoise, "diagonal": DiagonalNoise, "smooth": SmoothNoise,
         "low rank 2": LowRankNoise, "low rank 4": LowRankNoise}


def noise_covariance(kind, n_bands):
    identity = torch.eye(n_bands, dtype=torch.float64)
    if kind == "white":
        return 1e-4 * identity
    scale = 0.01 * (0.4 * torch.randn(n_bands, dtype=torch.float64)).exp()
    inner = identity
    if kind == "smooth":
        inner = (1 - SHARE) * identity + SHARE * smooth_correlation(10.0 * torch.arange(n_bands).double(), LENGTH_SCALE)
    elif kind.startswith("low rank"):
        loadings = torch.randn(int(kind.split()[-1]), n_bands, dtype=torch.float64)
        inner = identity + loadings.T @ loadings
    return scale[:, None] * inner * scale


def draw(kind, seed=0, *, n=400, n_bands=L):
    """Pixels, what is mixed in, endmembers, and the covariance of the noise, of 0.01 or so."""
    endmembers = torch.tensor(absorption_spectra(K, np.linspace(400.0, 2500.0, n_bands), seed))
    with seeded(seed):
        covariance = noise_covariance(kind, n_bands)
        x = torch.distributions.Dirichlet(torch.ones(K, dtype=torch.float64)).sample(torch.Size([n]))
        errors = torch.randn(n, n_bands, dtype=torch.float64) @ torch.linalg.cholesky(covariance).T
    return x @ endmembers + errors, x, endmembers, covariance


def cholesky(noise):
    return noise.cholesky(noise.scale.double())


def covariance_of(noise):
    factor = cholesky(noise)
    return factor @ factor.T if factor.ndim == 2 else factor.square().diag()


def assert_same(noise, other, rtol=1e-3):
    torch.testing.assert_close(covariance_of(noise), covariance_of(other), rtol=rtol, atol=rtol * 1e-4)


def error_in_sds(pixels, x, endmembers, noise_cholesky):
    """Root mean square of what least squares errs by, in units of what it claims to: 1 where the covariance is right."""
    likelihood = PixelLikelihood.of(pixels, endmembers, noise_cholesky)
    error = torch.linalg.solve(likelihood.precision, likelihood.linear.T).T - x
    return float(((error @ likelihood.precision) * error).mean(dim=0).sum().div(K).sqrt())


@pytest.mark.parametrize("kind", ["white", "diagonal", "smooth"])
def test_what_pixels_are_worth(kind):
    # Over 20 seeds from 0.94 to 1.10.
    for seed in range(4):
        pixels, _, endmembers, covariance = draw(kind, seed, n=2000)
        found, true = (PixelLikelihood.of(pixels, endmembers, factor).precision
                       for factor in (cholesky(noise_of_residuals(pixels, endmembers)[0]), torch.linalg.cholesky(covariance)))
        ratio = torch.linalg.eigvals(torch.linalg.solve(true, found)).real
        assert 0.85 < ratio.min() and ratio.max() < 1.15


@pytest.mark.parametrize("kind", KINDS)
def test_the_right_structure_wins_and_errors_are_as_large_as_claimed(kind):
    # Standard error of the mean of six: 0.012 where structure says what the noise is among mixtures, 0.12 where that is a guess.
    found, wrong = [], []
    for seed in range(6):
        pixels, x, endmembers, covariance = draw(kind, seed)
        noise, table = noise_of_residuals(pixels, endmembers)
        assert type(noise) is KINDS[kind] and table["noise"][0] == kind
        assert table["bic"].is_monotonic_increasing and not table.isna().any(axis=None)
        found.append(error_in_sds(pixels, x, endmembers, cholesky(noise)))
        if isinstance(noise, LowRankNoise):
            noise.loadings = noise.loadings[:-K]  # nothing among mixtures
            wrong.append(error_in_sds(pixels, x, endmembers, cholesky(noise)))
        elif kind == "smooth":
            wrong.append(error_in_sds(pixels, x, endmembers, covariance.diagonal().sqrt()))
    assert abs(np.mean(found) - 1.0) < (0.33 if kind.startswith("low rank") else 0.04)
    assert not wrong or np.mean(wrong) > 1.5


@pytest.mark.parametrize("kind", ["diagonal", "smooth", "low rank 2"])
def test_neither_abundances_nor_brightness_matter(kind):
    pixels, x, endmembers, _ = draw(kind)
    brightness = torch.rand(len(x), 1, dtype=torch.float64) + 0.5
    others = pixels + (brightness * x.flip(0) - x) @ endmembers
    noise, table = noise_of_residuals(pixels, endmembers)
    again, others_table = noise_of_residuals(others, 7.0 * endmembers)
    assert_same(again, noise)
    np.testing.assert_allclose(others_table["log_likelihood"], table["log_likelihood"], atol=0.02)  # the floor moves


@pytest.mark.parametrize("kind", ["diagonal", "smooth", "low rank 2"])
def test_unit_of_the_pixels_does_not_matter(kind):
    pixels, _, endmembers, _ = draw(kind)
    noise, _ = noise_of_residuals(1000.0 * pixels, endmembers)
    noise.scale /= 1000.0
    noise.settings["floor"] /= 1000.0
    assert_same(noise, noise_of_residuals(pixels, endmembers)[0])


@pytest.mark.parametrize("kind", ["smooth", "low rank 2"])
def test_arrays_and_bands_in_another_order(kind):
    pixels, _, endmembers, _ = draw(kind)
    wavelengths = 400.0 + 10.0 * np.arange(L)
    order = np.random.default_rng(0).permutation(L)
    noise, _ = noise_of_residuals(pixels, endmembers, wavelengths)
    arrays = [np.ascontiguousarray(each[..., order]) for each in (pixels.numpy(), endmembers.numpy(), wavelengths)]
    for array in arrays:
        array.setflags(write=False)  # as those of a scene
    again, _ = noise_of_residuals(*arrays)
    if kind == "smooth":  # what factors do inside the span depends on which bands are neighbours
        torch.testing.assert_close(covariance_of(again), covariance_of(noise)[order][:, order], rtol=1e-3, atol=1e-7)
    torch.testing.assert_close(again.scale, noise.scale[order], rtol=1e-3, atol=0.0)


@pytest.mark.parametrize("kind", ["white", "smooth", "low rank 2"])
def test_dead_bands_take_no_part(kind):
    pixels, _, endmembers, _ = draw(kind)
    wavelengths = 10.0 * np.arange(L + 9)
    alive = np.r_[2:20, 25:L + 7]
    padded_pixels, padded = torch.zeros(len(pixels), L + 9).double(), torch.zeros(K, L + 9).double()
    padded_pixels[:, alive], padded[:, alive] = pixels, endmembers
    noise, _ = noise_of_residuals(pixels, endmembers, wavelengths[alive])
    again, _ = noise_of_residuals(padded_pixels, padded, wavelengths)
    torch.testing.assert_close(again.scale[alive], noise.scale, rtol=1e-2, atol=0.0)
    assert again.scale.min() > 0 and again.scale[:2].max() < 1e-3 * pixels.max()
    padded[:, 21] = 0.5  # endmembers of a library, which know nothing of the sensor: the band must not count
    distrusted, _ = noise_of_residuals(padded_pixels, padded, wavelengths)
    torch.testing.assert_close(distrusted.scale[21], torch.tensor(0.5), rtol=0.1, atol=0.0)


@pytest.mark.parametrize("n, n_bands", [(5, 30), (30, 200), (12, 8), (300, K + 1)])
@pytest.mark.parametrize("kind", ["white", "smooth"])
def test_few_pixels_or_bands(kind, n, n_bands):
    pixels, _, endmembers, _ = draw(kind, n=n, n_bands=n_bands)
    noise, _ = noise_of_residuals(pixels, endmembers)
    covariance = covariance_of(noise)
    assert covariance.isfinite().all() and torch.linalg.eigvalsh(covariance).min() > 0
    assert (noise.scale > 1e-4).all() and (noise.scale < 0.1).all()
    if kind == "white":
        torch.testing.assert_close(noise.scale, torch.full((n_bands,), 0.01), rtol=0.25, atol=0.0)


@pytest.mark.parametrize("kind", ["diagonal", "smooth", "low rank 2"])
def test_endmembers_that_are_nearly_the_same(kind):
    pixels, _, endmembers, _ = draw(kind)
    twin = endmembers[:1] + 1e-9 * torch.rand(1, L, dtype=torch.float64)
    assert_same(noise_of_residuals(pixels, torch.cat([endmembers, twin]))[0], noise_of_residuals(pixels, endmembers)[0])


def test_pixels_without_noise_are_at_the_floor():
    _, x, endmembers, _ = draw("white")
    noise, _ = noise_of_residuals(x @ endmembers, endmembers)
    torch.testing.assert_close(noise.scale, torch.full((L,), noise.settings["floor"]), rtol=1e-3, atol=0.0)


def test_the_fewer_pixels_count_the_simpler_the_noise():
    pixels, _, endmembers, _ = draw("low rank 2", n=5000)
    tables = []
    for n_effective in (None, 1e9, 100):
        with seeded(1):
            tables.append(noise_of_residuals(pixels, endmembers, n_effective=n_effective)[1])
    assert tables[0].equals(tables[1])  # no more count than are looked at, and those are drawn by the seed
    for table, n in zip(tables[1:], (4000, 100), strict=True):
        np.testing.assert_allclose(table["bic"], table["n_parameters"] * np.log(n) - 2 * n * table["log_likelihood"])
    pixels = pixels + 0.03 * torch.randn(5000, L, dtype=torch.float64)  # in which factors and scales drown
    assert noise_of_residuals(pixels, endmembers)[1]["noise"][0] == "low rank 2"
    assert noise_of_residuals(pixels, endmembers, n_effective=20)[1]["noise"][0] == "white"


class TestLosses:
    """Against the density of the pixels on an explicit basis of the complement."""

    @pytest.fixture()
    def residuals(self):
        pixels, _, endmembers, _ = draw("smooth", n=50, n_bands=12)
        return _residuals(pixels, endmembers, None)

    @staticmethod
    def exact(residuals, covariance, gram=None):
        outside = torch.linalg.qr(residuals.basis, mode="complete").Q[:, K:]
        inside = outside.T @ covariance @ outside
        gram = outside.T @ (residuals.gram if gram is None else gram) @ outside
        return 0.5 * (len(inside) * np.log(2 * np.pi) + inside.logdet() + torch.linalg.solve(inside, gram).trace())

    @staticmethod
    def smooth(residuals, unknowns):
        scale, share = unknowns[:-2].exp(), unknowns[-1].sigmoid()
        correlation = share * smooth_correlation(residuals.positions, unknowns[-2].exp()) + (1 - share) * torch.eye(len(scale))
        return scale[:, None] * correlation * scale

    @staticmethod
    def unknowns():
        return torch.cat([0.3 * torch.randn(12) - 4.0, torch.tensor([3.0, 0.5])]).double()

    def test_smooth(self, residuals):
        unknowns = self.unknowns()
        value, gradient, _ = _stationary(residuals, unknowns)
        torch.testing.assert_close(value, self.exact(residuals, self.smooth(residuals, unknowns)))
        slopes = torch.autograd.functional.jacobian(lambda u: self.exact(residuals, self.smooth(residuals, u)), unknowns)
        torch.testing.assert_close(gradient, slopes, rtol=1e-6, atol=1e-6)

    def test_information_of_smooth_noise_is_the_curvature_where_pixels_are_as_expected(self, residuals):
        unknowns = self.unknowns()
        gram = self.smooth(residuals, unknowns)
        curvature = torch.autograd.functional.hessian(lambda u: self.exact(residuals, self.smooth(residuals, u), gram), unknowns)
        torch.testing.assert_close(_stationary(residuals, unknowns).information, curvature, rtol=1e-6, atol=1e-6)

    @pytest.mark.parametrize("rank", [0, 1, 3])
    def test_factors(self, residuals, rank):
        log_variance = 0.3 * torch.randn(12).double() - 10.0
        scale = (log_variance / 2).exp()
        (value, gradient, _), basis, loadings = _factors(residuals, rank, log_variance)
        torch.testing.assert_close(basis.T @ loadings.T, torch.zeros(K, rank).double())

        def exact(loadings):
            return self.exact(residuals, scale[:, None] * (loadings.T @ loadings + torch.eye(12)) * scale)

        torch.testing.assert_close(value, exact(loadings))
        least = value - 1e-9 * abs(value)
        assert all(exact(loadings + 0.1 * torch.randn(rank, 12)) >= least for _ in range(20))
        torch.testing.assert_close(value, exact(torch.cat([loadings, 5.0 * basis.T])))  # noise among mixtures is not seen
        steps = 1e-5 * torch.eye(12).double()
        slopes = [(_factors(residuals, rank, log_variance + step)[0].value
                   - _factors(residuals, rank, log_variance - step)[0].value) / 2e-5 for step in steps]
        torch.testing.assert_close(gradient, torch.stack(slopes), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("change, complaint", [
    ({"pixels": torch.ones(4, 6)}, "at least 5 of them"), ({"pixels": torch.ones(6)}, "finite pixels"),
    ({"pixels": torch.full((9, 6), torch.nan)}, "finite pixels"), ({"pixels": torch.zeros(9, 6)}, "two bands at least"),
    ({"endmembers": torch.ones(2, 5)}, r"endmembers \(n_endmembers, 6\)"), ({"endmembers": torch.ones(6)}, "finite endmembers"),
    ({"endmembers": torch.full((2, 6), torch.inf)}, "finite endmembers"), ({"endmembers": torch.eye(6)}, "do not span all bands"),
    ({"wavelengths": torch.arange(5)}, r"wavelengths \(6,\)"), ({"wavelengths": np.ones(6)}, "no two the same"),
    ({"wavelengths": [1.0, 2.0, 3.0, 4.0, 5.0, np.nan]}, "finite wavelengths"),
    ({"n_effective": 4.0}, "at least 5 effective pixels"), ({"n_effective": np.nan}, "at least 5 effective pixels"),
])
def test_what_has_no_noise_to_measure_is_refused(change, complaint):
    good = {"pixels": torch.rand(9, 6), "endmembers": torch.rand(2, 6)}
    noise_of_residuals(**good)
    with pytest.raises(InputError, match=complaint):
        noise_of_residuals(**(good | change))
