"""Fits on a GPU: what a machine without one cannot show."""

from __future__ import annotations

from dataclasses import replace
from functools import partial

import numpy as np
import pytest
import torch
from short_fits import CONFIG, same, weights

import pyro_unmix as pu
from pyro_unmix import training

pytestmark = pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
ON_GPU = replace(CONFIG, device="cuda")


class Killed(BaseException):
    pass


def sums_hold(summary):
    mean = summary.abundance_mean.values
    assert np.isfinite(mean).all() and (mean >= 0).all() and np.abs(mean.sum(-1) - 1).max() < 1e-6


@pytest.mark.parametrize("encoder", ["mlp", "cnn", "spacnn"])
@pytest.mark.parametrize("head", ["dirichlet", "logistic-normal", "simplex-normal", "softmax"])
def test_every_guide_is_fitted_and_comes_back(fit_of, fit_scene, encoder, head):
    fit = fit_of(config=ON_GPU, guide=pu.UnmixingGuide(encoder, head))
    assert {tensor.device.type for tensor in weights(fit).values()} == {"cpu"}
    sums_hold(fit.posterior(fit_scene).summary())


@pytest.mark.parametrize("options", [{}, {"sampling_steps": 0}])
def test_same_seed_same_result(fit_of, options):
    config = replace(ON_GPU, **options)
    assert same(*(weights(fit_of(config=config, guide="spacnn")) for _ in range(2)))


@pytest.mark.parametrize("step", [7, 17])
def test_a_killed_fit_goes_on_to_the_same_end(fit_of, tmp_path, monkeypatch, step):
    config, whole = replace(ON_GPU, checkpoint_every=5), fit_of(config=ON_GPU)
    train_step, steps = training.Trainer._train_step, []

    def killed(*arguments):
        steps.append(1)
        if len(steps) > step:
            raise Killed
        return train_step(*arguments)

    with monkeypatch.context() as patched, pytest.raises(Killed):
        patched.setattr(training.Trainer, "_train_step", killed)
        fit_of(config=config, checkpoint=tmp_path / "c.pt")
    assert same(weights(whole), weights(fit_of(config=config, checkpoint=tmp_path / "c.pt", resume=True)))


def test_labels_and_transfer(fit_of, fit_scene):
    labels = np.where(np.arange(fit_scene.shape[0])[:, None, None] < 6, fit_scene.reference.abundances.values, np.nan)
    sums_hold(fit_of(config=ON_GPU, labels=labels, mse_weight=2.0).posterior(fit_scene).summary())
    spectra, bands = fit_scene.reference.endmembers.values, np.linspace(400.0, 2500.0, fit_scene.n_bands)
    prior = pu.priors.MVNEndmembers(spectra, 0.01 * np.eye(spectra.shape[1]))
    make = partial(pu.simulate_scene, len(spectra), (16, 16), endmembers=spectra, wavelengths=bands)
    fit = pu.transfer(pu.UnmixingModel(len(spectra), endmembers=prior), lambda seed: make(seed=seed), steps=3, guide="mlp",
                      config=ON_GPU, progress=False)
    sums_hold(fit.posterior(fit_scene).summary())
