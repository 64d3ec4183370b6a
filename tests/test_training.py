"""The loop of training: its stages, how it can end, and going on from a checkpoint."""

from __future__ import annotations

import copy
from dataclasses import replace
from pathlib import Path

import numpy as np
import pyro
import pytest
import torch
from scipy import stats
from short_fits import CONFIG, L, quiet_fit, same, weights
from torch import nn

import pyro_unmix as pu
from pyro_unmix import training
from pyro_unmix.heads import SimplexNormalHead
from pyro_unmix.refine.shared import draw_shared
from pyro_unmix.tiles import Tiles
from pyro_unmix.training import first_not_finite


class Trapped:
    """A head that does something at its n-th batch of pixels, counted from 0; `spring(n)` may raise or return a factor."""

    def __init__(self, spring):
        super().__init__()
        self.spring, self.seen = spring, []

    def __deepcopy__(self, memo):
        twin = type(self)(self.spring)
        twin.__dict__.update({name: copy.deepcopy(value, memo) for name, value in vars(self).items()
                              if name not in ("spring", "seen")})
        return twin

    def forward(self, features, *estimate):
        if torch.is_grad_enabled() and len(features) > 1:  # a step of training
            self.seen.append(len(features))
        factor = self.spring(len(self.seen) - 1) or 1.0
        return super().forward(features * factor, *estimate)


class Trap(Trapped, pu.DirichletHead):
    pass


class NormalTrap(Trapped, SimplexNormalHead):
    pass


# The course of training


def test_history_tells_both_stages(plain_fit):
    history = plain_fit.history
    assert list(history) == ["step", "stage", "elbo_loss", "guide_loss", "gradient_norm", "seconds"]
    assert history.step.tolist() == list(range(20)) and history.stage.tolist() == ["svi"] * 12 + ["calibrate"] * 8
    svi = history.stage == "svi"
    assert np.isfinite(history.elbo_loss[svi]).all() and history.elbo_loss[~svi].isna().all()
    assert np.isfinite(history.guide_loss[~svi]).all() and history.guide_loss[svi].isna().all()
    assert (history.gradient_norm > 0).all() and (history.seconds.diff()[1:] > 0).all()
    assert set(plain_fit.seconds) == {"initialize", "svi", "sample", "calibrate"}
    assert history.seconds.iloc[-1] == pytest.approx(sum(plain_fit.seconds.values()))
    assert plain_fit.calibrated and not plain_fit.interrupted


class Unsure(SimplexNormalHead):
    """Starts too wide: as it is, there would be little to learn from exact draws."""

    def build(self, n_features, n_endmembers):
        super().build(n_features, n_endmembers)
        torch.nn.init.constant_(self.layer[-1].bias, 1.0)


@pytest.mark.parametrize("head, sampling_steps", [("dirichlet", 0), (Unsure(), 40)], ids=["simulated", "exact"])
def test_the_loss_falls_in_both_stages(fit_scene, fit_model, head, sampling_steps):
    """The end against the beginning, Mann-Whitney: falling by chance has p = 0.01."""
    config = replace(CONFIG, svi_steps=60, calibration_steps=100, sampling_steps=sampling_steps, learning_rate=5e-3,
                     kl_warmup_steps=0)
    history = quiet_fit(fit_model, fit_scene, config=config, guide=pu.UnmixingGuide("mlp", head)).history
    for column in ("elbo_loss", "guide_loss"):
        loss = history[column].dropna()
        assert stats.mannwhitneyu(loss[:8], loss[-30:], alternative="greater").pvalue < 0.01, column


@pytest.mark.parametrize("svi, calibration", [(0, 0), (0, 3), (3, 0)])
def test_stages_can_be_left_out(fit_of, fit_scene, svi, calibration):
    result = fit_of(config=replace(CONFIG, svi_steps=svi, calibration_steps=calibration))
    assert result.history.stage.tolist() == ["svi"] * svi + ["calibrate"] * calibration
    assert result.calibrated == (calibration > 0)
    assert np.isfinite(result.posterior(fit_scene).summary().abundance_mean).all()


@pytest.mark.parametrize("warmup, window, stop", [(4, 5, 15), (6, 5, 20), (0, 5, 10)])
def test_stops_early_at_the_first_window_after_the_warmup(fit_of, warmup, window, stop):
    """With a tolerance that anything meets: two whole windows after the warm-up, then no further."""
    config = replace(CONFIG, svi_steps=40, calibration_steps=0, kl_warmup_steps=warmup, window=window)
    assert len(fit_of(config=replace(config, tolerance=1e12)).history) == stop
    # Negative control: the loss still falls by more than nothing.
    assert len(fit_of(config=replace(config, tolerance=0.0, learning_rate=1e-2)).history) > stop


def test_weight_of_the_divergence_rises_to_one(fit_of, monkeypatch):
    weighted, used = Tiles.weighted, []
    monkeypatch.setattr(Tiles, "weighted", lambda tiles, weight: used.append(weight) or weighted(tiles, weight))
    fit_of()
    assert used == [0.25, 0.5, 0.75] + [1.0] * 9


def test_gradients_are_clipped_before_they_are_applied(fit_of, monkeypatch):
    step, applied = torch.optim.Adam.step, []

    def watched(optimizer, *args, **kwargs):
        gradients = [p.grad for group in optimizer.param_groups for p in group["params"] if p.grad is not None]
        applied.append(torch.cat([g.flatten() for g in gradients]).norm().item())
        return step(optimizer, *args, **kwargs)

    monkeypatch.setattr(torch.optim.Adam, "step", watched)
    found = fit_of(config=replace(CONFIG, clip_norm=1e-2)).history.gradient_norm
    assert len(applied) == 20 and max(applied) <= 1e-2 * (1 + 1e-4) and found.min() > 1e-2


def test_every_tile_is_visited_and_no_pixel_counts_twice(fit_of, fit_scene):
    """The sizes of the batches are those of the tiles: 12 x 14 in tiles of 8 gives 64, 48, 32 and 24 pixels."""
    config = replace(CONFIG, tiles_per_step=1, svi_steps=40, calibration_steps=0)
    result = fit_of(guide=pu.UnmixingGuide("mlp", Trap(lambda n: None)), config=config)
    assert set(result.guide.head.seen) == {64, 48, 32, 24}


def test_exact_draws_are_sampled_only_where_pairs_are_simulated_from_them(fit_of, monkeypatch):
    """Not without calibration, and not with sampling_steps of 0; negative control: a fit with both."""
    sampled = []
    monkeypatch.setattr(training, "draw_shared", lambda *parts, **options: sampled.append(1) or draw_shared(*parts, **options))
    short = replace(CONFIG, svi_steps=2, calibration_steps=2)
    for config, n_fits in ((replace(short, calibration_steps=0), 0), (replace(short, sampling_steps=0), 0), (short, 1)):
        fit = fit_of(config=config)
        assert len(sampled) == n_fits and ("sample" in fit.seconds) == bool(n_fits)


# How it can end


@pytest.mark.parametrize("step", [0, 5])
def test_divergence_in_the_guide_names_the_site(fit_of, step):
    head = Trap(lambda n: float("nan") if n >= step else None)
    with pytest.raises(pu.FitDiverged, match=f"step {step}: 'abundances' is not finite") as caught:
        fit_of(guide=pu.UnmixingGuide("mlp", head))
    assert (caught.value.site, caught.value.step) == ("abundances", step)


def test_divergence_in_the_model_names_the_site(fit_scene, fit_model):
    class Broken(nn.Module):
        calls = 0

        def forward(self, abundances, endmembers):
            self.calls += self.training and abundances.dtype == torch.float32  # not by least squares of the guide or the start
            return abundances @ endmembers * (float("nan") if self.calls > 3 else 1.0)

    with pytest.raises(pu.FitDiverged) as caught:
        quiet_fit(fit_model.replace(mixing=Broken()), fit_scene)
    assert (caught.value.site, caught.value.step) == ("reflectance", 3)


def test_divergence_by_a_learning_rate_out_of_all_bounds(fit_of):
    with pytest.raises(pu.FitDiverged, match="lower the learning rate") as caught:
        fit_of(config=replace(CONFIG, learning_rate=1e6))
    assert caught.value.step == 1 and caught.value.site in ("endmembers", "noise_scale", "abundances", "brightness")


def test_what_is_not_finite_is_found(plain_fit, fit_scene):
    guide, tiles = copy.deepcopy(plain_fit.guide), pu.whole(fit_scene)
    with pyro.get_param_store().scope():
        assert first_not_finite(plain_fit.model, guide, tiles) is None
        guide.noise.loc.grad = torch.full((L,), float("inf"))
        assert first_not_finite(plain_fit.model, guide, tiles) == "gradient of noise.loc"
        with torch.no_grad():
            guide.head.layer[4].bias[0] = float("nan")
        assert first_not_finite(plain_fit.model, guide, tiles) == "head.layer.4.bias"


def test_divergence_of_a_gradient_names_its_parameter(fit_scene, fit_model):
    class Bent(torch.autograd.Function):
        @staticmethod
        def forward(context, value):
            return value.clone()

        @staticmethod
        def backward(context, gradient):
            return gradient * float("nan")

    class Mixing(nn.Module):
        def forward(self, abundances, endmembers):
            return abundances @ Bent.apply(endmembers)

    with pytest.raises(pu.FitDiverged) as caught:
        quiet_fit(fit_model.replace(mixing=Mixing()), fit_scene)
    assert (caught.value.site, caught.value.step) == ("gradient of endmembers.shift", 0)


def test_divergence_while_calibrating_counts_its_own_steps(fit_of):
    head = Trap(lambda n: float("nan") if n >= 14 else None)
    with pytest.raises(pu.FitDiverged) as caught:
        fit_of(guide=pu.UnmixingGuide("mlp", head))
    assert (caught.value.site, caught.value.step) == ("abundances", 2)


@pytest.mark.parametrize("error", [pu.InputError("a scene of leaves", "stones"), ValueError("stones"), RuntimeError("stones")])
def test_other_errors_are_not_called_divergence(fit_scene, fit_model, error):
    class Refusing(nn.Module):
        def forward(self, abundances, endmembers):
            raise error

    with pytest.raises(type(error), match="stones"):
        quiet_fit(fit_model.replace(mixing=Refusing()), fit_scene)


def stopped_at(n, error, trap=Trap):
    """A guide that raises once, in the n-th step."""
    errors = [error]

    def spring(seen):
        if seen == n and errors:
            raise errors.pop()

    return pu.UnmixingGuide("mlp", trap(spring))


@pytest.mark.parametrize("step, stage", [(7, "svi"), (15, "calibrate")])
def test_interruption_keeps_what_there_is(fit_of, fit_scene, step, stage):
    with pytest.warns(pu.UnmixWarning, match=f"interrupted in stage '{stage}'"):
        result = fit_of(guide=stopped_at(step, KeyboardInterrupt))
    assert result.interrupted and not result.calibrated and len(result.history) == step
    whole = fit_of(guide=pu.UnmixingGuide("mlp", Trap(lambda n: None)))
    columns = ["elbo_loss", "guide_loss"]
    assert result.history[columns].equals(whole.history[columns][:step])  # and up to there it is the same fit
    summary = result.posterior(fit_scene).summary()
    assert np.isfinite(summary.abundance_quantile).all()


# Checkpoints


class Killed(BaseException):
    pass


OFTEN = replace(CONFIG, checkpoint_every=5)


@pytest.mark.parametrize("trap, sampling_steps, step", [
    (NormalTrap, 40, 5), (NormalTrap, 40, 9), (NormalTrap, 40, 14), (NormalTrap, 40, 19), (Trap, 40, 19),
    (Trap, 0, 9), (Trap, 0, 19)])
def test_resumed_fit_is_the_uninterrupted_one(fit_of, tmp_path, trap, sampling_steps, step):
    """Killed right at a checkpoint, between two, in either stage, learning from exact draws or from the guide: bit for bit."""
    config, untrapped = replace(OFTEN, sampling_steps=sampling_steps), pu.UnmixingGuide("mlp", trap(lambda n: None))
    whole = fit_of(config=config, guide=untrapped, checkpoint=tmp_path / "whole.pt")
    checkpoint = tmp_path / "checkpoint.pt"
    with pytest.raises(Killed):
        fit_of(config=config, guide=stopped_at(step, Killed, trap), checkpoint=checkpoint)
    assert checkpoint.exists()
    resumed = fit_of(config=config, guide=untrapped, checkpoint=checkpoint, resume=True)
    assert len(resumed.guide.head.seen) < 20  # it did go on, not start again
    assert same(weights(whole), weights(resumed))
    assert whole.history.drop(columns="seconds").equals(resumed.history.drop(columns="seconds"))
    again = fit_of(config=config, guide=untrapped, checkpoint=checkpoint, resume=True)  # of a finished one: nothing is left to do
    assert same(weights(whole), weights(again)) and again.seconds == resumed.seconds | {"initialize": again.seconds["initialize"]}


@pytest.mark.parametrize("error", [Killed, KeyboardInterrupt])
def test_a_fit_stopped_while_it_samples_goes_on_to_the_same_end(fit_of, plain_fit, tmp_path, monkeypatch, error):
    """From the last checkpoint of SVI: draws are those of the seed, whatever has been drawn before."""
    checkpoint, seen = tmp_path / "c.pt", []

    def stopped(*arguments, on_step, **options):
        on_step()
        seen.append(checkpoint.exists())
        raise error

    with monkeypatch.context() as patched:
        patched.setattr(training, "draw_shared", stopped)
        with pytest.raises(Killed) if error is Killed else pytest.warns(pu.UnmixWarning, match="interrupted in stage 'svi'"):
            fit_of(config=OFTEN, checkpoint=checkpoint)
    assert seen == [True] and checkpoint.exists()
    resumed = fit_of(config=OFTEN, checkpoint=checkpoint, resume=True)
    assert same(weights(resumed), weights(plain_fit)) and resumed.calibrated


@pytest.fixture(scope="module")
def fit_labels(fit_scene):
    """Of the upper half of the scene."""
    labels = fit_scene.reference.abundances.values.copy()
    labels[6:] = np.nan
    return labels


@pytest.mark.parametrize("head", [Trap, NormalTrap])
@pytest.mark.parametrize("step", [13, 30, 39])
def test_resumed_labelled_fit_is_the_uninterrupted_one(fit_of, fit_labels, tmp_path, head, step):
    """The head is asked twice in a step: for a density, and for the mean whose squared error counts."""
    options = dict(config=OFTEN, labels=fit_labels, mse_weight=2.0, checkpoint=tmp_path / "c.pt")
    whole = fit_of(guide=pu.UnmixingGuide("mlp", head(lambda n: None)), **options)
    with pytest.raises(Killed):
        fit_of(guide=stopped_at(step, Killed, head), **options)
    resumed = fit_of(guide=pu.UnmixingGuide("mlp", head(lambda n: None)), resume=True, **options)
    assert same(weights(whole), weights(resumed)) and len(resumed.guide.head.seen) < len(whole.guide.head.seen)
    assert whole.history.drop(columns="seconds").equals(resumed.history.drop(columns="seconds"))


@pytest.mark.parametrize("change", ["other", "fewer", "even", "none", "weight"])
def test_checkpoint_of_other_labels_is_refused(fit_of, fit_labels, tmp_path, change):
    """Even where what is not known is filled with what was known; negative control: the same labels."""
    labels = fit_labels.copy()
    labels[0, 0] = 1 / 3
    options = dict(config=OFTEN, guide="mlp", labels=labels, mse_weight=1.0, checkpoint=tmp_path / "c.pt")
    with pytest.raises(Killed):
        fit_of(**{**options, "guide": stopped_at(15, Killed)})
    changed = labels.copy()
    if change == "other":
        changed[1, 1] = changed[1, 1][::-1].copy()
    elif change == "fewer":
        changed[5] = np.nan
    elif change == "even":
        changed[0, 0] = np.nan
    elif change == "none":
        changed = None
    with pytest.raises(pu.InputError, match="checkpoint of this very fit"):
        weight = {"weight": 2.0, "none": 0.0}.get(change, 1.0)
        fit_of(**{**options, "labels": changed, "mse_weight": weight}, resume=True)
    resumed = fit_of(**{**options, "guide": pu.UnmixingGuide("mlp", Trap(lambda n: None))}, resume=True)
    assert len(resumed.history) == 20


def test_interrupted_fit_can_go_on(fit_of, tmp_path):
    checkpoint = tmp_path / "c.pt"
    with pytest.warns(pu.UnmixWarning, match="interrupted"):
        fit_of(config=OFTEN, guide=stopped_at(13, KeyboardInterrupt), checkpoint=checkpoint)
    trapped = pu.UnmixingGuide("mlp", Trap(lambda n: None))
    resumed = fit_of(config=OFTEN, guide=trapped, checkpoint=checkpoint, resume=True)
    assert resumed.calibrated
    assert same(weights(resumed), weights(fit_of(config=OFTEN, guide=trapped)))


def test_checkpoints_do_not_change_the_fit(fit_of, plain_fit, tmp_path):
    assert same(weights(fit_of(config=OFTEN, checkpoint=tmp_path / "c.pt")), weights(plain_fit))


def test_resume_without_a_checkpoint_starts_at_the_beginning(fit_of, plain_fit, tmp_path):
    assert same(weights(fit_of(checkpoint=tmp_path / "c.pt", resume=True)), weights(plain_fit))


@pytest.fixture
def left_over(fit_of, tmp_path):
    with pytest.raises(Killed):
        fit_of(config=OFTEN, guide=stopped_at(6, Killed), checkpoint=tmp_path / "c.pt")
    return tmp_path / "c.pt"


@pytest.mark.parametrize("change", ["seed", "settings", "scene", "pixels", "guide", "prior"])
def test_checkpoint_of_another_fit_is_refused(fit_scene, fit_model, left_over, change):
    options = dict(model=fit_model, scene=fit_scene, config=OFTEN, checkpoint=left_over, resume=True)
    options |= {
        "seed": lambda: dict(seed=1),
        "settings": lambda: dict(config=replace(OFTEN, learning_rate=1e-4)),
        "scene": lambda: dict(scene=pu.Scene(2 * fit_scene.reflectance)),
        "pixels": lambda: dict(scene=fit_scene.crop(y=slice(0, 10))),
        "guide": lambda: dict(guide="cnn"),
        "prior": lambda: dict(model=fit_model.replace(abundances=pu.priors.Dirichlet(0.3))),
    }[change]()
    with pytest.raises(pu.InputError, match="checkpoint of this very fit"):
        quiet_fit(**options)
    assert left_over.exists()


def test_no_checkpoint_is_unpickled(fit_of, left_over, tmp_path):
    torch.save({"belongs_to": Path(tmp_path)}, left_over)
    with pytest.raises(pu.InputError, match="cannot be read"):
        fit_of(config=OFTEN, checkpoint=left_over, resume=True)


@pytest.mark.parametrize("damage", ["cut", "garbage", "another file"])
def test_damaged_checkpoint_is_refused(fit_of, left_over, damage):
    if damage == "cut":
        left_over.write_bytes(left_over.read_bytes()[:1000])
    elif damage == "garbage":
        left_over.write_bytes(b"not a checkpoint")
    else:
        torch.save({"weights": torch.ones(3)}, left_over)
    with pytest.raises(pu.InputError, match="checkpoint"):
        fit_of(config=OFTEN, checkpoint=left_over, resume=True)


def test_a_fresh_start_ignores_an_old_checkpoint(fit_of, plain_fit, left_over):
    assert same(weights(fit_of(config=OFTEN, checkpoint=left_over)), weights(plain_fit))
