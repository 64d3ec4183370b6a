"""SISAL: endmembers without pure pixels, through noise, whatever the unit and the order of the pixels."""

from __future__ import annotations

import numpy as np
import pytest
from scipy import optimize

from pyro_unmix.baselines import sisal as module
from pyro_unmix.baselines.sisal import affine_subspace, enclosing_simplices, expand, log_volume, sisal
from pyro_unmix.baselines.vca import vca
from pyro_unmix.errors import InputError
from pyro_unmix.metrics import match, spectral_angle
from pyro_unmix.simulate import absorption_spectra

WAVELENGTHS = np.linspace(400, 2500, 60)


def mixed(k, snr_db, *, n=3000, on_face=0.05, seed=0):
    """Pixels without an abundance above 0.8, some on each face, and the endmembers."""
    random = np.random.default_rng(seed)
    abundances = random.dirichlet(np.ones(k), 10 * n)
    lacks = random.random(len(abundances))
    for j in range(k):
        abundances[(lacks >= j * on_face) & (lacks < (j + 1) * on_face), j] = 0.0
    abundances /= abundances.sum(axis=1, keepdims=True)
    abundances = abundances[abundances.max(axis=1) < 0.8][:n]
    endmembers = absorption_spectra(k, WAVELENGTHS, seed=seed)
    signal = abundances @ endmembers
    return signal + np.sqrt(np.mean(signal**2)) * 10 ** (-snr_db / 20) * random.standard_normal(signal.shape), endmembers


def angle(found, endmembers):
    return spectral_angle(found[match(found, endmembers)], endmembers).mean()


@pytest.mark.parametrize("k", [3, 4, 6])
def test_touched_faces_without_noise_are_found(k):
    pixels, endmembers = mixed(k, np.inf)
    assert angle(sisal(pixels, k), endmembers) < 1e-3 < 0.05 < angle(vca(pixels, k), endmembers)


@pytest.mark.parametrize("k, snr_db, factor", [(3, 30, 5), (4, 20, 2), (4, 40, 10), (6, 30, 3), (6, 60, 20)])
@pytest.mark.parametrize("seed", [1, 2])
def test_noise_is_told_from_pixels_outside(k, snr_db, factor, seed):
    pixels, endmembers = mixed(k, snr_db, seed=seed)
    assert factor * angle(sisal(pixels, k), endmembers) < angle(vca(pixels, k), endmembers)


def test_a_weight_far_from_the_noise_is_worse():
    """The negative control of the default weight."""
    pixels, endmembers = mixed(4, 25)
    best = angle(sisal(pixels, 4), endmembers)
    assert angle(sisal(pixels, 4, weight=10.0), endmembers) > 3 * best
    assert angle(sisal(pixels, 4, weight=3000.0), endmembers) > 2 * best


@pytest.mark.parametrize("weight", [20.0, 60.0, 300.0])
def test_the_weight_says_how_many_pixels_are_left_outside(weight):
    pixels, _ = mixed(4, 25)
    plane = affine_subspace(pixels, 4)
    corners = np.column_stack([np.ones(4), (sisal(pixels, 4, weight=weight) - plane.basis[0]) @ np.linalg.pinv(plane.basis[1:])])
    outside = (plane.coordinates @ np.linalg.inv(corners) < 0).mean(axis=0)
    np.testing.assert_allclose(outside, 3 / weight, rtol=0.15, atol=1 / len(pixels))


def test_minimum_is_that_of_a_linear_program_with_slack():
    """SLSQP over the matrix and one slack variable a pixel and face finds nothing lower."""
    pixels, _ = mixed(3, 25, n=40)
    plane, weight = affine_subspace(pixels, 3), 10.0
    coordinates, total = plane.coordinates, np.eye(3)[0]

    def whole(free):
        columns = free[:6].reshape(3, 2)
        return np.column_stack([columns, total - columns.sum(axis=1)])

    def objective(matrix):
        return -np.linalg.slogdet(matrix)[1] + weight * np.maximum(-(coordinates @ matrix), 0).mean(axis=0).sum()

    corners = np.column_stack([np.ones(3), (sisal(pixels, 3, weight=weight) - plane.basis[0]) @ np.linalg.pinv(plane.basis[1:])])
    ours = np.linalg.inv(corners)
    start = np.concatenate([ours[:, :2].ravel(), np.maximum(-(coordinates @ ours), 0).ravel()])
    exact = optimize.minimize(
        lambda free: -np.linalg.slogdet(whole(free))[1] + weight * free[6:].sum() / len(pixels), start, method="SLSQP",
        bounds=[(None, None)] * 6 + [(0, None)] * (3 * len(pixels)), options={"maxiter": 100, "ftol": 1e-9},
        constraints={"type": "ineq", "fun": lambda free: (coordinates @ whole(free)).ravel() + free[6:]})
    assert objective(ours) < objective(whole(exact.x)) + 2e-3


@pytest.mark.parametrize("unit", [1e-6, 1e4])
def test_the_unit_of_the_scene_does_not_matter(unit):
    pixels, _ = mixed(4, 30, n=1000)
    np.testing.assert_allclose(sisal(unit * pixels, 4) / unit, sisal(pixels, 4), rtol=0, atol=1e-5)


def test_the_order_of_the_pixels_does_not_matter():
    pixels, _ = mixed(4, 30, n=1000)
    found = sisal(pixels, 4)
    for order in (np.arange(len(pixels))[::-1], np.random.default_rng(0).permutation(len(pixels))):
        np.testing.assert_array_equal(sisal(pixels[order], 4), found)


@pytest.mark.parametrize("corners", ["one", "near", "line", "far"])
def test_a_bad_start_is_survived(monkeypatch, corners):
    pixels, endmembers = mixed(4, 40)
    random = np.random.default_rng(0)
    bad = {"one": np.repeat(pixels[:1], 4, axis=0), "near": pixels.mean(axis=0) + 1e-3 * random.standard_normal((4, 60)),
           "line": np.outer([1.0, 2.0, 3.0, 4.0], pixels[0]), "far": pixels[:4] + 1e3 * random.standard_normal((4, 60))}
    monkeypatch.setattr(module, "vca", lambda pixels, k, *, seed: bad[corners])
    assert angle(sisal(pixels, 4), endmembers) < 0.01


def test_starts_hold_most_pixels():
    pixels, _ = mixed(4, 25)
    plane = affine_subspace(pixels, 4)
    for share in (0.9, 1.0):
        matrices = enclosing_simplices(pixels, plane, share, 0)
        assert len(matrices) == 3 and np.all(np.diff([log_volume(matrix) for matrix in matrices]) >= 0)
        for matrix in matrices:
            abundances = plane.coordinates @ matrix
            np.testing.assert_allclose((abundances.min(axis=1) > -1e-9).mean(), share, atol=1e-3)
            np.testing.assert_allclose(abundances.sum(axis=1), 1.0)
            np.testing.assert_allclose(expand(matrix, plane.coordinates, share), matrix, atol=1e-9)  # once is enough


def test_other_seeds_lead_to_the_same_endmembers():
    pixels, endmembers = mixed(4, 40)
    assert max(angle(sisal(pixels, 4, seed=seed), endmembers) for seed in range(4)) < 0.01


def test_cases_at_the_edge():
    pixels, endmembers = mixed(3, 30, n=500)
    np.testing.assert_allclose(sisal(pixels, 1), pixels.mean(axis=0, keepdims=True))
    assert angle(sisal(np.repeat(pixels, 3, axis=0), 3), endmembers) < 0.03
    assert np.isfinite(sisal(np.concatenate([pixels, np.zeros((50, 60))]), 3)).all()
    assert angle(sisal(endmembers, 3), endmembers) < 0.01  # as many pixels as endmembers
    assert np.isfinite(sisal(pixels[:, :3], 3)).all()  # as many bands


@pytest.mark.parametrize("pixels, k", [
    (np.ones((50, 8)), 2), (np.zeros((50, 8)), 2), (np.eye(8)[:3], 4), (np.full((9, 8), np.nan), 2)])
def test_what_cannot_be_unmixed_is_refused(pixels, k):
    with pytest.raises(InputError):
        sisal(pixels, k)


@pytest.mark.parametrize("weight", [0.0, -1.0, np.inf, np.nan])
def test_weights_are_positive(weight):
    with pytest.raises(InputError, match="weight"):
        sisal(mixed(3, 30, n=50)[0], 3, weight=weight)


def test_scene_without_pure_pixels(real_data):
    """No pixel of sim1 is purer than 0.75; with noise of 30 dB, vertex component analysis is at 0.06 rad."""
    with np.load(real_data / "sim1.npz") as scene:
        pixels, endmembers = scene["image"].reshape(-1, 224).astype(np.float64), scene["endmembers"]
    pixels += np.sqrt(np.mean(pixels**2)) * 10**-1.5 * np.random.default_rng(0).standard_normal(pixels.shape)
    assert angle(sisal(pixels, 6), endmembers) < 0.015
