"""The paper's settings, together."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import torch
from short_fits import quiet_fit

import pyro_unmix as pu


def test_concentrations_sum_to_one_and_nothing_is_calibrated(fit_model, fit_scene):
    labels = fit_scene.reference.abundances.values.copy()
    labels[6:] = np.nan
    fit = quiet_fit(fit_model, fit_scene, guide=pu.paper.guide("cnn"), config=replace(pu.paper.CONFIG, svi_steps=5, device="cpu"),
                    labels=labels, mse_weight=pu.paper.MSE_WEIGHT)
    with torch.no_grad():
        q, _ = fit.guide.pixels(pu.whole(fit_scene))
    torch.testing.assert_close(q.concentration.sum(-1), torch.ones(len(q.concentration)), rtol=0.01, atol=0)
    assert fit.history.stage.tolist() == ["svi"] * 5 and not fit.calibrated
