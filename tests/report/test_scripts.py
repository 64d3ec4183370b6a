"""The calculations of the page, run by node, against numpy and against the posterior itself."""

from __future__ import annotations

import json
import shutil
import subprocess
from importlib import resources

import numpy as np
import pytest
import torch
from scipy import stats

from benchmarks.exceedance import LEVELS, by_angle, errors
from pyro_unmix.distributions import SimplexNormal
from pyro_unmix.pieces import GuidePiece
from pyro_unmix.report.explorer import packed

needs_node = pytest.mark.skipif(shutil.which("node") is None, reason="needs node, which runs the scripts of the report")


def run(script: str, **given):
    """What a script prints, as JSON, that has the functions of the page and `given`."""
    functions = resources.files("pyro_unmix.report").joinpath("posterior.js").read_text("utf-8")
    text = f"{functions}\nconst given = {json.dumps(given)};\nconsole.log(JSON.stringify({script}));"
    done = subprocess.run(["node", "-"], input=text, capture_output=True, text=True, check=True)
    return json.loads(done.stdout)


@needs_node
def test_exceedance():
    rng = np.random.default_rng(0)
    quantiles = np.sort(rng.beta(0.5, 1.0, (5, 200)), axis=0)
    quantiles[:, :4] = [[0, 0, 0.2, 0.3], [0, 0, 0.2, 0.3], [0, 0.1, 0.2, 0.3], [0, 0.2, 0.2, 1.0], [0, 0.3, 0.2, 1.0]]  # ties
    thresholds = [0.01, 0.1, 0.2, 0.5, 0.99]
    found = run("given.thresholds.map(t => given.q.map(each => exceedance(each, given.scores, t)))", q=quantiles.T.tolist(),
                thresholds=thresholds, scores=stats.norm.ppf(LEVELS).tolist())
    np.testing.assert_allclose(found, [by_angle(quantiles, t) for t in thresholds], atol=1e-6)
    at_quantiles = run("given.q.map(t => exceedance(given.q, given.scores, t))", q=quantiles[:, 9].tolist(),
                       scores=stats.norm.ppf(LEVELS).tolist())
    np.testing.assert_allclose(at_quantiles, 1 - LEVELS, atol=1e-6)
    assert run("exceedance([NaN, NaN, NaN, NaN, NaN], given.scores, 0.5)", scores=[0] * 5) is None  # NaN in JSON


@needs_node
def test_the_rest():
    values = np.array([0.3, np.nan, 7.0, -2.0])
    found = run("Array.from(unpack(given.about))", about=packed(values))
    np.testing.assert_allclose(np.array(found, dtype=float), values, atol=9 / 131068 * 1.01)
    assert run("Array.from(mixture([0.25, 0.75], [1, 2, 3, 5, 6, 7], 2))") == [8.0, 10.0, 12.0]
    assert run("distance([1, 2, 3, 4], [1, 2, 3, 6])") == 1.0
    assert run("marks(0, 0.63, 4)") == [0.0, 0.2, 0.4, 0.6] and run("marks(402, 2489, 5)") == [500, 1000, 1500, 2000]


def test_the_page_is_nearer_to_the_posterior_than_a_beta_distribution():
    """Of a guide whose abundances are not Dirichlet, which would be Beta exactly: of 200 pixels, many of them near a face."""
    scale = torch.linspace(0.02, 0.2, 200)[:, None].expand(200, 2)
    guide = SimplexNormal(torch.rand(200, 2) - 0.1, torch.zeros(200, 2, 2), scale)
    piece = GuidePiece(np.arange(200), np.arange(200), 0, guide, None)
    mean, sd, quantiles = (each.double().numpy() for each in piece.marginals(LEVELS))
    found = errors(mean.ravel(), sd.ravel(), quantiles.reshape(5, -1), lambda t: piece.exceedance(t).numpy().ravel())
    assert np.median(found["angle"]) < 0.012 and found["angle"].max() < 0.06
    assert np.mean(found["angle"]) < 0.8 * np.mean(found["Beta by moments"])
