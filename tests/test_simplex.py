"""The most likely simplex: its gradient, its integral, and the endmembers of scenes without pure pixels."""

from __future__ import annotations

import numpy as np
import pytest
from scipy import integrate, optimize

from pyro_unmix.baselines.vca import vca
from pyro_unmix.errors import InputError
from pyro_unmix.metrics import match, spectral_angle
from pyro_unmix.simplex import _Likelihood, _log_integral, averaged_corners, likely_simplex
from pyro_unmix.simulate import simulate_scene


def mixed(k=3, *, shape=(32, 32), seed=0, **options):
    """Pixels, the start and the true endmembers of a scene whose pixels are independent of each other."""
    scene = simulate_scene(k, shape, n_bands=40, correlation_length=0.0, seed=seed, **options)
    pixels = scene.pixels().astype(np.float64)
    return pixels, vca(pixels, k), scene.reference.endmembers.values


def angle(found, endmembers):
    return spectral_angle(found[match(found, endmembers)], endmembers).mean()


def problem(k, *, far=False, n=200, seed=0):
    """A likelihood of points in a random simplex, noise of every pixel its own, and the simplex that made them."""
    random = np.random.default_rng(seed)
    vertices = 5.0 * random.standard_normal((k, k - 1))
    noise_scale = random.uniform(0.05, 0.3, n)
    points = random.dirichlet(np.full(k, 0.5), n) @ vertices + noise_scale[:, None] * random.standard_normal((n, k - 1))
    if far:
        points[:20] = vertices.mean(axis=0) + 5.0 * (points[:20] - vertices.mean(axis=0))
    likelihood = _Likelihood(points, noise_scale, vertices.shape)
    return likelihood, ((vertices - likelihood.centre) @ likelihood.white).ravel()


@pytest.mark.parametrize("far", [False, True])
@pytest.mark.parametrize("concentration", [0.051, 0.4, 0.99])
@pytest.mark.parametrize("k", [2, 3, 5])
def test_gradient_is_that_of_finite_differences(k, concentration, far):
    likelihood, vertices = problem(k, far=far)
    moved = vertices + 0.02 * np.random.default_rng(1).standard_normal(len(vertices))
    unknowns = np.concatenate([moved, np.log(concentration) + 0.01 * np.arange(k) / k])
    gradient = likelihood(unknowns)[1]
    # Steps small enough that hardly a pixel crosses from the table to the expansion, where the value jumps by 1e-4.
    numeric = optimize.approx_fprime(unknowns, lambda u: likelihood(u)[0], 1e-7)
    np.testing.assert_allclose(gradient, numeric, rtol=1e-4, atol=1e-4 * np.abs(gradient).max())


def exact_log_integral(t, concentration):
    """By parts, which takes the pole at zero away."""
    def integrand(x):
        return x**concentration / concentration * (x - t) * np.exp(-0.5 * (x - t) ** 2) / np.sqrt(2.0 * np.pi)

    low, high = max(0.0, t - 12.0), max(t, 0.0) + 12.0
    return np.log(integrate.quad(integrand, low, high, points=[max(t, 0.1)], epsabs=0.0, epsrel=1e-10, limit=500)[0])


@pytest.mark.parametrize("concentration", [0.05, 0.1, 0.3, 0.7, 1.0])
def test_integral_is_that_of_quadrature(concentration):
    t = np.array([-3.0, -1.3, 0.0, 0.4, 2.0, 5.0, 11.9, 12.1, 20.0, 30.0])
    value, slope, by_log = (each[:, 0] for each in _log_integral(t[:, None], np.log([concentration])))
    np.testing.assert_allclose(value, [exact_log_integral(at, concentration) for at in t], atol=2e-4)
    h = 1e-3
    by_t = [(exact_log_integral(at + h, concentration) - exact_log_integral(at - h, concentration)) / (2 * h) for at in t]
    by_c = [(exact_log_integral(at, concentration * np.exp(h)) - exact_log_integral(at, concentration * np.exp(-h))) / (2 * h)
            for at in t]
    np.testing.assert_allclose(slope, by_t, atol=1e-3)
    np.testing.assert_allclose(by_log, by_c, atol=1e-3)


@pytest.mark.parametrize("concentration", [0.05, 0.3, 1.0])
def test_integral_goes_on_linearly_outside(concentration):
    t = np.array([-3.0, -4.0, -10.0, -1000.0])
    value, slope, by_log = (each[:, 0] for each in _log_integral(t[:, None], np.log([concentration])))
    np.testing.assert_allclose(value, value[0] + slope[0] * (t + 3.0), rtol=1e-12)
    np.testing.assert_allclose(slope, slope[0], rtol=1e-12)
    h = 1e-4
    above, below = (_log_integral(t[:, None], np.log([concentration]) + step)[0][:, 0] for step in (h, -h))
    np.testing.assert_allclose(by_log, (above - below) / (2 * h), rtol=1e-4)
    assert exact_log_integral(-10.0, concentration) < value[2] - 10.0  # the integral itself falls as the square


@pytest.mark.parametrize("seed", [0, 1])
@pytest.mark.parametrize("k", [3, 4, 5])
def test_endmembers_without_pure_pixels(k, seed):
    pixels, start, endmembers = mixed(k, concentration=1.0 / k, max_abundance=0.8, snr_db=30.0, seed=seed)
    found = angle(likely_simplex(pixels, start, brightness=False).endmembers, endmembers)
    assert found < 0.015
    assert 5.0 * found < angle(start, endmembers)


@pytest.mark.parametrize("k", [3, 4])
def test_the_less_noise_the_nearer(k):
    angles = []
    for snr_db in (30.0, 50.0, 70.0):
        pixels, start, endmembers = mixed(k, concentration=0.5, snr_db=snr_db)
        angles.append(angle(likely_simplex(pixels, start, brightness=False).endmembers, endmembers))
    assert angles[0] > 2.0 * angles[1] > 4.0 * angles[2]
    assert 10.0 * angles[2] < angle(start, endmembers)


@pytest.mark.parametrize("brightness", [0.0, 0.2])
def test_concentration_is_learned(brightness):
    pixels, start, _ = mixed(concentration=0.5, brightness=brightness, snr_db=30.0, seed=1)
    concentration = likely_simplex(pixels, start, brightness=brightness > 0.0).concentration
    assert concentration.shape == (3,)
    assert (concentration > 0.4).all() and (concentration < 0.7).all()


def test_concentrations_differ_and_stay_within_their_bounds():
    pixels, start, endmembers = mixed(concentration=np.array([0.2, 0.5, 0.9]), snr_db=35.0, seed=1)
    found = likely_simplex(pixels, start, brightness=False)
    np.testing.assert_allclose(found.concentration[match(found.endmembers, endmembers)], [0.2, 0.5, 0.9], rtol=0.15)
    pixels, start, _ = mixed(concentration=3.0, snr_db=35.0, seed=1)
    concentration = likely_simplex(pixels, start, brightness=False).concentration
    assert (concentration >= 0.05).all() and (concentration <= 1.0).all()


@pytest.mark.parametrize("seed", [0, 1])
def test_brightness_that_varies_is_divided_out(seed):
    pixels, start, endmembers = mixed(concentration=0.5, max_abundance=0.9, brightness=0.25, snr_db=35.0, seed=seed)
    found = angle(likely_simplex(pixels, start, brightness=True).endmembers, endmembers)
    assert found < 0.01
    assert 5.0 * found < angle(start, endmembers)
    assert 10.0 * found < angle(likely_simplex(pixels, start, brightness=False).endmembers, endmembers)


@pytest.mark.parametrize("brightness", [False, True])
@pytest.mark.parametrize("shape", [(32, 32), (70, 70)])  # all pixels, and a draw of 4000
def test_order_of_the_pixels_does_not_matter(shape, brightness):
    pixels, start, _ = mixed(shape=shape, concentration=0.5)
    found = likely_simplex(pixels, start, brightness=brightness)
    again = likely_simplex(np.random.default_rng(0).permutation(pixels), start, brightness=brightness)
    np.testing.assert_array_equal(found.endmembers, again.endmembers)
    np.testing.assert_array_equal(found.concentration, again.concentration)


@pytest.mark.parametrize("brightness", [False, True])
@pytest.mark.parametrize("unit", [1e-3, 1000.0])
def test_unit_of_the_pixels_does_not_matter(unit, brightness):
    pixels, start, _ = mixed(concentration=0.5)
    found = likely_simplex(pixels, start, brightness=brightness)
    other = likely_simplex(unit * pixels, unit * start, brightness=brightness)
    # With brightness divided out the spectra have no unit.
    np.testing.assert_allclose(other.endmembers / (1.0 if brightness else unit), found.endmembers, atol=1e-5)
    np.testing.assert_allclose(other.concentration, found.concentration, rtol=1e-4)


@pytest.mark.parametrize("brightness", [False, True])
def test_a_few_outliers_do_not_collapse_it(brightness):
    pixels, _, endmembers = mixed(shape=(40, 40), concentration=0.5, snr_db=30.0, seed=1)
    pixels[:5] = np.random.default_rng(1).uniform(0.0, 2.0, (5, 40))
    start = vca(pixels, 3)
    found = likely_simplex(pixels, start, brightness=brightness)
    assert angle(start, endmembers) > 0.15  # one corner of the start is an outlier
    assert angle(found.endmembers, endmembers) < 0.05
    assert (found.concentration > 0.25).all()


@pytest.mark.parametrize("pixels, k", [(np.ones((50, 8)), 2), (np.eye(8)[:3], 4), (np.full((9, 8), np.nan), 2)])
def test_what_has_no_simplex_is_refused(pixels, k):
    with pytest.raises(InputError):
        likely_simplex(pixels, np.eye(8)[:k], brightness=False)


def test_a_corner_that_ran_away_stays_where_it_started(monkeypatch):
    """A rare endmember, its concentration at the bound: kept as found while some pixel is pure in it."""
    pixels, start, endmembers = mixed(4, shape=(48, 48), seed=1, concentration=np.array([0.5, 0.5, 0.5, 0.05]), brightness=0.25)
    found = likely_simplex(pixels, start, brightness=True)
    rare = found.concentration.argmin()
    assert found.concentration[rare] < 0.051 and angle(found.endmembers, endmembers) < angle(start, endmembers)
    monkeypatch.setattr(_Likelihood, "purity", lambda self, vertices: np.full(4, 0.5))
    kept = likely_simplex(pixels, start, brightness=True)
    angles = spectral_angle(kept.endmembers, start)
    assert angles[rare] < 0.02  # but for the noise that the subspace leaves out
    np.testing.assert_array_equal(np.delete(kept.endmembers, rare, axis=0), np.delete(found.endmembers, rare, axis=0))


def test_purity_is_the_abundance_that_one_pixel_in_a_thousand_exceeds():
    random = np.random.default_rng(0)
    vertices = 5.0 * random.standard_normal((3, 2))
    abundances = random.dirichlet([1.0, 1.0, 0.2], 5000)
    likelihood = _Likelihood(abundances @ vertices, np.full(5000, 0.1), vertices.shape)
    np.testing.assert_allclose(likelihood.purity(vertices), np.quantile(abundances, 0.999, axis=0), atol=1e-6)


@pytest.mark.parametrize("brightness", [0.0, 0.2])
@pytest.mark.parametrize("k", [3, 6])
def test_corners_of_means_are_nearer_than_those_of_single_pixels(k, brightness):
    pixels, start, endmembers = mixed(k, concentration=1.0 / k, brightness=brightness, snr_db=20.0, seed=k)
    found = averaged_corners(pixels, k, brightness=brightness > 0.0)
    assert found.shape == start.shape
    assert angle(found, endmembers) < min(0.05, 0.7 * angle(start, endmembers))


@pytest.mark.parametrize("brightness", [False, True])
def test_corners_of_means_do_not_depend_on_order_or_unit(brightness):
    pixels, _, _ = mixed(concentration=0.3, brightness=0.2, snr_db=20.0)
    found = averaged_corners(pixels, 3, brightness=brightness)
    shuffled = averaged_corners(np.random.default_rng(0).permutation(pixels), 3, brightness=brightness)
    np.testing.assert_array_equal(shuffled, found)
    scaled = averaged_corners(1000.0 * pixels, 3, brightness=brightness)
    np.testing.assert_allclose(scaled / (1.0 if brightness else 1000.0), found, atol=1e-9)


@pytest.mark.parametrize("k", [2, 4, 6])
def test_as_many_pixels_as_corners_are_the_corners(k):
    pixels = np.random.default_rng(k).uniform(0.1, 1.0, (k, 8))
    found = averaged_corners(pixels, k, brightness=False)
    np.testing.assert_allclose(found[match(found, pixels)], pixels, atol=1e-9)


def test_shade_is_a_corner():
    """A black endmember: the pixels' affine subspace holds the origin, and their spectra span one direction less."""
    random = np.random.default_rng(0)
    endmembers = np.vstack([np.zeros(20), random.uniform(0.2, 1.0, (2, 20))])
    pixels = random.dirichlet(np.full(3, 0.3), 500) @ endmembers + 1e-3 * random.standard_normal((500, 20))
    found = averaged_corners(pixels, 3, brightness=False)
    assert max(np.linalg.norm(found - each, axis=1).min() for each in endmembers) < 0.1
