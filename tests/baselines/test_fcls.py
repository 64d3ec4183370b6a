"""Constrained least squares against slow solvers that are exact."""

from __future__ import annotations

from itertools import combinations

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays
from scipy import optimize

from pyro_unmix.baselines.fcls import fcls, nnls, normalized_nnls, project_to_simplex
from pyro_unmix.simulate import absorption_spectra

WAVELENGTHS = np.linspace(400, 2500, 40)


def problem(k, kind="plain", n_pixels=40, noise=0.02):
    """Pixels `(n_pixels, bands)` and endmembers `(k, bands)`; some solutions lie on faces."""
    random = np.random.default_rng(k)
    endmembers = absorption_spectra(k, WAVELENGTHS, seed=k)
    if kind == "dark":
        endmembers[0] *= 0.02
    if kind == "near-collinear":
        endmembers[1] = 1.1 * endmembers[0] + 0.01 * random.standard_normal(len(WAVELENGTHS))
    abundances = random.dirichlet(np.full(k, 0.5), n_pixels)
    return abundances @ endmembers + noise * random.standard_normal((n_pixels, len(WAVELENGTHS))), endmembers


def exact_nnls(pixels, endmembers):
    return np.array([optimize.nnls(endmembers.T, pixel)[0] for pixel in pixels])


def exact_fcls(pixels, endmembers):
    """The best feasible least-squares solution with equality constraint over all supports."""
    n, k = len(pixels), len(endmembers)
    least, best = np.full(n, np.inf), np.zeros((n, k))
    for size in range(1, k + 1):
        for support in map(list, combinations(range(k), size)):
            chosen = endmembers[support]
            system = np.block([[chosen @ chosen.T, np.ones((size, 1))], [np.ones((1, size)), np.zeros((1, 1))]])
            solution = np.linalg.solve(system, np.vstack([chosen @ pixels.T, np.ones((1, n))]))[:size].T
            error = ((pixels - solution @ chosen) ** 2).sum(axis=1)
            better = (solution >= -1e-12).all(axis=1) & (error < least)
            least[better], best[better] = error[better], 0.0
            best[np.ix_(better, support)] = solution[better]
    return best


def as_tensors(*problem_arrays, dtype=torch.float64):
    return [torch.as_tensor(array, dtype=dtype) for array in problem_arrays]


problems = pytest.mark.parametrize("kind", ["plain", "dark", "near-collinear"])
sizes = pytest.mark.parametrize("k", [2, 3, 4, 5, 6, 9])


@problems
@sizes
def test_nnls_is_that_of_scipy(k, kind):
    pixels, endmembers = problem(k, kind)
    np.testing.assert_allclose(nnls(*as_tensors(pixels, endmembers)).numpy() * np.linalg.norm(endmembers, axis=1),
                               exact_nnls(pixels, endmembers) * np.linalg.norm(endmembers, axis=1), rtol=0, atol=1e-6)


@problems
@sizes
def test_fcls_is_the_best_over_all_supports(k, kind):
    pixels, endmembers = problem(k, kind)
    np.testing.assert_allclose(fcls(*as_tensors(pixels, endmembers)).numpy(), exact_fcls(pixels, endmembers), rtol=0, atol=1e-6)


def test_fcls_is_that_of_a_quadratic_program():
    pixels, endmembers = problem(4, n_pixels=5)
    expected = [optimize.minimize(lambda z, y=y: ((y - z @ endmembers) ** 2).sum(), np.full(4, 0.25), method="SLSQP",
                                  jac=lambda z, y=y: -2 * endmembers @ (y - z @ endmembers), bounds=[(0, 1)] * 4, tol=1e-14,
                                  constraints={"type": "eq", "fun": lambda z: z.sum() - 1}).x for y in pixels]
    np.testing.assert_allclose(fcls(*as_tensors(pixels, endmembers)).numpy(), expected, rtol=0, atol=1e-6)


@pytest.mark.parametrize("kind, k, error", [
    ("plain", 4, 1e-6), ("dark", 4, 1e-6), ("plain", 6, 1e-6), ("plain", 9, 0.01), ("dark", 9, 0.02),
    ("near-collinear", 4, 0.03), ("near-collinear", 9, 0.06)])
def test_what_fifty_iterations_are_worth(kind, k, error):
    """The guide allows itself fifty. Errors in units of an abundance; of near-collinear endmembers, mostly their sum is known."""
    pixels, endmembers = problem(k, kind)
    norms = np.linalg.norm(endmembers, axis=1)
    short = fcls(*as_tensors(pixels, endmembers), iterations=50).numpy()
    assert np.abs(short - exact_fcls(pixels, endmembers)).max() < error
    short = nnls(*as_tensors(pixels, endmembers), iterations=50).numpy()
    assert (np.abs(short - exact_nnls(pixels, endmembers)) * norms / np.median(norms)).max() < error


@problems
@pytest.mark.parametrize("solve", [nnls, fcls])
def test_single_precision_is_nearly_as_good(solve, kind):
    pixels, endmembers = problem(4, kind)
    exact, single = solve(*as_tensors(pixels, endmembers)), solve(*as_tensors(pixels, endmembers, dtype=torch.float32))
    assert single.dtype == torch.float32
    mixed = [z.double().numpy() @ endmembers for z in (exact, single)]
    np.testing.assert_allclose(mixed[1], mixed[0], rtol=0, atol=1e-4)


@pytest.mark.parametrize("solve", [nnls, fcls])
@pytest.mark.parametrize("unit", [1e-6, 1e4])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_the_unit_of_the_scene_does_not_matter(solve, unit, dtype):
    pixels, endmembers = problem(4)
    plain, other = solve(*as_tensors(pixels, endmembers, dtype=dtype)), solve(
        *as_tensors(unit * pixels, unit * endmembers, dtype=dtype))
    torch.testing.assert_close(other, plain, rtol=0, atol=1e-4 if dtype == torch.float32 else 1e-7)


def test_constraints_hold():
    pixels, endmembers = problem(5, noise=0.5)
    for dtype in (torch.float32, torch.float64):
        for iterations in (1, 50, 1000):
            tensors = as_tensors(pixels, endmembers, dtype=dtype)
            abundances = fcls(*tensors, iterations=iterations)
            assert (abundances >= 0).all() and (abundances.sum(dim=1) - 1).abs().max() < 1e-6
            assert (nnls(*tensors, iterations=iterations) >= 0).all()


def test_a_pixel_does_not_feel_the_others():
    tensors = as_tensors(*problem(4))
    for solve in (nnls, fcls):
        torch.testing.assert_close(solve(*tensors)[:5], solve(tensors[0][:5], tensors[1]), rtol=0, atol=1e-6)


def test_cases_at_the_edge():
    endmembers = torch.tensor([[1.0, 0.0, 0.0], [0.0, 2.0, 0.0]])
    dark = torch.zeros(1, 3)
    torch.testing.assert_close(nnls(dark, endmembers), torch.zeros(1, 2))
    torch.testing.assert_close(nnls(-torch.ones(1, 3), endmembers), torch.zeros(1, 2))
    torch.testing.assert_close(fcls(dark, endmembers), torch.tensor([[0.8, 0.2]]))
    torch.testing.assert_close(fcls(endmembers, endmembers), torch.eye(2))
    torch.testing.assert_close(fcls(torch.rand(4, 3), endmembers[:1]), torch.ones(4, 1))
    same = torch.ones(2, 3)
    torch.testing.assert_close(fcls(torch.rand(4, 3), same), torch.full((4, 2), 0.5))
    mixed = nnls(torch.ones(1, 3), same)
    torch.testing.assert_close(mixed.sum(dim=1), torch.ones(1))
    assert torch.isfinite(nnls(torch.rand(4, 3), torch.zeros(2, 3))).all()


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("iterations", [50, 1000])
def test_normalized_nnls_splits_coefficients_into_abundances_and_their_sum(dtype, iterations):
    tensors = as_tensors(*problem(4), dtype=dtype)
    abundances, total = normalized_nnls(*tensors, iterations=iterations)
    assert abundances.dtype == total.dtype == dtype and total.shape == (40,)
    torch.testing.assert_close(abundances * total[:, None], nnls(*tensors, iterations=iterations))
    torch.testing.assert_close(abundances.sum(dim=1), torch.ones(40, dtype=dtype))


@pytest.mark.parametrize("dark", [0.0, 1e-12, -1.0])
def test_a_dark_pixel_is_an_even_mixture(dark):
    endmembers = as_tensors(problem(4)[1])[0]
    pixels = torch.stack([dark * endmembers.sum(dim=0), endmembers[0], 1e-6 * endmembers[0]])  # the last two: one shape
    abundances, total = normalized_nnls(pixels, endmembers)
    torch.testing.assert_close(abundances[0], torch.full((4,), 0.25, dtype=torch.float64), rtol=0, atol=0)
    torch.testing.assert_close(abundances[1:], torch.eye(4, dtype=torch.float64)[[0, 0]], rtol=0, atol=1e-3)
    assert 0 <= total[0] < 1e-9
    torch.testing.assert_close(total[1:], torch.tensor([1.0, 1e-6], dtype=torch.float64), rtol=1e-3, atol=0)


# --- projection

rows = st.integers(1, 9).flatmap(lambda k: arrays.arrays(np.float64, (3, k), elements=st.floats(-1e6, 1e6)))


@given(rows)
def test_projection_lands_on_the_simplex(values):
    projected = project_to_simplex(torch.as_tensor(values))
    assert (projected >= 0).all()
    torch.testing.assert_close(projected.sum(dim=1), torch.ones(3, dtype=torch.float64))


@given(rows, st.integers(0, 2**32 - 1))
def test_no_point_of_the_simplex_is_nearer(values, seed):
    """x is the projection of v where (v - x) makes no acute angle with any direction into the simplex (v - x)(w - x) <= 0."""
    projected = project_to_simplex(torch.as_tensor(values)).numpy()
    k = values.shape[1]
    others = np.concatenate([np.eye(k), np.random.default_rng(seed).dirichlet(np.ones(k), 5)])
    slopes = np.einsum("nk,nmk->nm", values - projected, others[None] - projected[:, None])
    assert (slopes <= 1e-9 * (1 + np.abs(values).max())).all()


@given(st.integers(1, 6).flatmap(lambda k: arrays.arrays(np.float64, (2, k), elements=st.floats(0.01, 1))))
def test_what_lies_on_the_simplex_stays(values):
    values = torch.as_tensor(values / values.sum(axis=1, keepdims=True))
    torch.testing.assert_close(project_to_simplex(values), values)


def test_projection_of_large_single_precision_numbers():
    torch.testing.assert_close(project_to_simplex(torch.tensor([[1e9, 0.0, -1e9], [-1e9, -1e9, -1e9]])),
                               torch.tensor([[1.0, 0.0, 0.0], [1 / 3, 1 / 3, 1 / 3]]))
