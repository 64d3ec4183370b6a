"""MVSA: the smallest simplex that holds all pixels, whatever the start, the unit and the order of the pixels."""

from __future__ import annotations

import numpy as np
import pytest
from scipy import optimize, spatial

from pyro_unmix.baselines import sisal as module
from pyro_unmix.baselines.mvsa import mvsa
from pyro_unmix.baselines.sisal import affine_subspace
from pyro_unmix.baselines.vca import vca
from pyro_unmix.errors import InputError
from pyro_unmix.metrics import match, spectral_angle
from pyro_unmix.simulate import absorption_spectra

WAVELENGTHS = np.linspace(400, 2500, 60)


def mixed(k, snr_db=np.inf, *, n=1500, seed=0):
    """Pixels without an abundance above 0.8, some on each face, and the endmembers."""
    random = np.random.default_rng(seed)
    abundances = random.dirichlet(np.ones(k), 10 * n)
    for j in range(k):
        abundances[j::20, j] = 0.0
    abundances /= abundances.sum(axis=1, keepdims=True)
    abundances = abundances[abundances.max(axis=1) < 0.8][:n]
    endmembers = absorption_spectra(k, WAVELENGTHS, seed=seed)
    signal = abundances @ endmembers
    return signal + np.sqrt(np.mean(signal**2)) * 10 ** (-snr_db / 20) * random.standard_normal(signal.shape), endmembers


def angle(found, endmembers):
    return spectral_angle(found[match(found, endmembers)], endmembers).mean()


def to_abundances(found, plane):
    return np.linalg.inv(np.column_stack([np.ones(len(found)), (found - plane.basis[0]) @ np.linalg.pinv(plane.basis[1:])]))


@pytest.mark.parametrize("k", [3, 4, 6])
def test_touched_faces_without_noise_are_found_exactly(k):
    pixels, endmembers = mixed(k)
    np.testing.assert_allclose(spectral_angle(mvsa(pixels, k)[:, None], endmembers[None]).min(axis=0), 0.0, atol=1e-6)
    assert angle(vca(pixels, k), endmembers) > 0.05


@pytest.mark.parametrize("k, snr_db, factor", [(3, 40, 3), (4, 60, 10), (6, 60, 5)])
def test_better_than_pure_pixels_where_there_is_little_noise(k, snr_db, factor):
    pixels, endmembers = mixed(k, snr_db)
    assert factor * angle(mvsa(pixels, k), endmembers) < angle(vca(pixels, k), endmembers)


def test_one_outlier_moves_a_face():
    """The negative control: nothing here is robust, by definition."""
    pixels, endmembers = mixed(4)
    pixels[0] = 1.5 * pixels[0] - 0.5 * pixels.mean(axis=0) + 0.3 * endmembers[0]
    assert angle(mvsa(pixels, 4), endmembers) > 0.01


@pytest.mark.parametrize("k, snr_db", [(3, 20), (4, 30), (6, 30)])
def test_every_pixel_is_inside(k, snr_db):
    pixels, _ = mixed(k, snr_db)
    plane = affine_subspace(pixels, k)
    abundances = plane.coordinates @ to_abundances(mvsa(pixels, k), plane)
    assert abundances.min() > -1e-9
    assert (np.sort(abundances, axis=0)[0] < 1e-6).all()  # and every face is touched


@pytest.mark.parametrize("seed", [0, 1, 2])
def test_triangle_is_the_smallest_of_all_with_a_side_on_the_hull(seed):
    """A smallest triangle has a side along an edge of the convex hull (Klee and Laskowski 1985); try each, the rest by search."""
    pixels, _ = mixed(3, 20, n=60, seed=seed)
    plane = affine_subspace(pixels, 3)
    points = plane.coordinates[:, 1:]
    hull = points[spatial.ConvexHull(points).vertices]
    best = np.inf
    for start, end in zip(hull, np.roll(hull, -1, axis=0), strict=True):
        along = (end - start) / np.linalg.norm(end - start)
        normal = np.array([-along[1], along[0]])
        x, y = (hull - start) @ along, (hull - start) @ normal

        def area(slopes, x=x, y=y):
            """Of the triangle on the axis between the lines x = a + slope y that just hold the points."""
            low, high = (x - slopes[0] * y).min(), (x - slopes[1] * y).max()
            return (high - low) ** 2 / (2 * (slopes[0] - slopes[1])) if slopes[0] > slopes[1] else np.inf

        for guess in ([1.0, -1.0], [2.0, 0.0], [0.0, -2.0]):
            best = min(best, optimize.minimize(area, guess, method="Nelder-Mead", options={"maxiter": 500, "xatol": 1e-6}).fun)
    ours = 0.5 / abs(np.linalg.det(to_abundances(mvsa(pixels, 3), plane)))
    assert ours < best * (1 + 1e-4)


@pytest.mark.parametrize("unit", [1e-6, 1e4])
def test_the_unit_of_the_scene_does_not_matter(unit):
    pixels, _ = mixed(4, 30)
    np.testing.assert_allclose(mvsa(unit * pixels, 4) / unit, mvsa(pixels, 4), rtol=0, atol=1e-5)


def test_the_order_of_the_pixels_does_not_matter():
    pixels, _ = mixed(4, 30)
    found = mvsa(pixels, 4)
    for order in (np.arange(len(pixels))[::-1], np.random.default_rng(0).permutation(len(pixels))):
        np.testing.assert_array_equal(mvsa(pixels[order], 4), found)


@pytest.mark.parametrize("corners", ["one", "near", "line", "far"])
def test_a_bad_start_is_survived(monkeypatch, corners):
    pixels, endmembers = mixed(4)
    random = np.random.default_rng(0)
    bad = {"one": np.repeat(pixels[:1], 4, axis=0), "near": pixels.mean(axis=0) + 1e-3 * random.standard_normal((4, 60)),
           "line": np.outer([1.0, 2.0, 3.0, 4.0], pixels[0]), "far": pixels[:4] + 1e3 * random.standard_normal((4, 60))}
    monkeypatch.setattr(module, "vca", lambda pixels, k, *, seed: bad[corners])
    assert angle(mvsa(pixels, 4), endmembers) < 1e-6


def test_cases_at_the_edge():
    pixels, endmembers = mixed(3, n=500)
    np.testing.assert_allclose(mvsa(pixels, 1), pixels.mean(axis=0, keepdims=True))
    assert angle(mvsa(np.repeat(pixels, 3, axis=0), 3), endmembers) < 1e-6
    assert np.isfinite(mvsa(np.concatenate([pixels, np.zeros((50, 60))]), 3)).all()
    assert angle(mvsa(endmembers, 3), endmembers) < 1e-6  # as many pixels as endmembers
    assert np.isfinite(mvsa(pixels[:, :3], 3)).all()  # as many bands


@pytest.mark.parametrize("pixels, k", [
    (np.ones((50, 8)), 2), (np.zeros((50, 8)), 2), (np.eye(8)[:3], 4), (np.full((9, 8), np.nan), 2)])
def test_what_cannot_be_unmixed_is_refused(pixels, k):
    with pytest.raises(InputError):
        mvsa(pixels, k)


def test_scene_without_pure_pixels(real_data):
    """No pixel of sim1 is purer than 0.75, but there are pixels on all faces."""
    with np.load(real_data / "sim1.npz") as scene:
        pixels, endmembers = scene["image"].reshape(-1, 224).astype(np.float64), scene["endmembers"]
    assert angle(mvsa(pixels, 6), endmembers) < 1e-4 < 0.05 < angle(vca(pixels, 6), endmembers)
