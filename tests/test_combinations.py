"""Every part with every other: fits hold what all fits hold, and what makes no sense is refused."""

from __future__ import annotations

import numpy as np
import pyro.distributions as dist
import pytest
import torch
from short_fits import CONFIG, quiet_fit

import pyro_unmix as pu
from benchmarks.combinations import PARTS, PRIORS, K, drawn, guide_of, pairwise


def test_every_pair_of_parts_occurs():
    found = list(pairwise())
    for i, one in enumerate(PARTS):
        for j, other in list(enumerate(PARTS))[i + 1:]:
            assert {(each[i], each[j]) for each in found} == {(a, b) for a in one for b in other}
    assert len(found) < 40


@pytest.mark.parametrize("combination", list(pairwise()), ids=lambda each: "-".join(each).replace(" ", "_"))
def test_sums_and_signs_hold(combination):
    model, scene = drawn(combination, 8, 14, seed=1)
    fit = quiet_fit(model, scene, guide=guide_of(combination))
    posterior = fit.posterior(scene)
    summary, draws = posterior.summary(), posterior.draws(5)
    for abundances in (summary.abundance_mean.values, draws.abundances.values):
        assert np.isfinite(abundances).all() and (abundances >= 0).all() and np.abs(abundances.sum(-1) - 1).max() < 1e-6
    assert np.isfinite(summary.abundance_quantile).all() and (summary.abundance_sd >= 0).all()
    assert posterior.findings()[-1].name in ("trusted", "best effort", "not calibrated")


BUNDLE = pu.variability.EndmemberBrightness(0.1)


@pytest.mark.parametrize("parts, message", [
    ({"variability": BUNDLE, "mixing": pu.mixing.Fan()}, "variability .*linear mixing"),
    ({"variability": BUNDLE, "noise": pu.noise.StudentNoise()}, "variability .*covariance"),
    ({"abundances": dist.Dirichlet(torch.ones(K + 1))}, "event shape"),
    ({"abundances": lambda k: dist.Normal(torch.zeros(k), 1.0).to_event(1)}, "on the simplex"),
    ({"abundances": lambda k: torch.ones(k)}, "a Pyro distribution"),
    ({"abundances": 0.5}, "a prior"),
])
def test_what_makes_no_sense_is_refused_before_any_scene(parts, message):
    with pytest.raises(pu.InputError, match=message):
        pu.UnmixingModel(K, **parts)


def test_what_makes_no_sense_for_a_scene_is_refused():
    _, scene = drawn(("Dirichlet", "linear", "diagonal", "dirichlet"), 8, 14, seed=1)
    percent = pu.Scene(100.0 * scene.reflectance.values)
    with pytest.raises(pu.InputError, match="divide the scene by its unit"):
        quiet_fit(pu.UnmixingModel(K, mixing=pu.mixing.Hapke()), percent)
    spatial = pu.UnmixingModel(K, abundances=PRIORS["SpatialDirichlet"]())
    fit = pu.fit(spatial, scene, guide="mlp", config=CONFIG, progress=False)
    with pytest.raises(pu.InputError, match="pixels are independent"):
        pu.refine(fit, scene)
