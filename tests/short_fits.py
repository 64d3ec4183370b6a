"""Fits of a few steps, and how to compare them. Their scene and model are fixtures of conftest."""

from __future__ import annotations

import torch

import pyro_unmix as pu

K, L = 3, 12
CONFIG = pu.FitConfig(svi_steps=12, calibration_steps=8, sampling_steps=40, kl_warmup_steps=4, window=50,
                      tile_size=8, device="cpu")


def quiet_fit(model, scene, *, config=CONFIG, guide="mlp", **options):
    return pu.fit(model, scene, config=config, guide=guide, progress=False, **options)


def weights(fit):
    return {**fit.guide.state_dict(), **{f"model.{name}": value for name, value in fit.model.state_dict().items()}}


def same(one, other):
    return one.keys() == other.keys() and all(torch.equal(one[name], other[name]) for name in one)
