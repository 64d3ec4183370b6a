"""The experiments on minerals: they run, they write what they say, and their scores are those of slow exact code."""

from __future__ import annotations

import json
import os

import numpy as np
import pandas as pd
import pytest

import pyro_unmix as pu
from pyro_unmix import simulator_check
from pyro_unmix.experiments import sensitivity as sensitivity_module
from pyro_unmix.experiments.minerals import HELD_OUT, minerals_on, scores, train
from pyro_unmix.experiments.sensitivity import run_sensitivity
from pyro_unmix.experiments.transfer import run_transfer
from pyro_unmix.plot.sensitivity import sensitivity

pytestmark = pytest.mark.skipif(not os.environ.get("PYRO_UNMIX_DATA"), reason="no folder of scenes")
FEW = ["Alunite", "Muscovite", "Sphene"]


@pytest.fixture(scope="module", autouse=True)
def few_scenes_to_compare_with():
    """What they are for: test_simulator_check."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(simulator_check, "SCENES", 3)
        yield


@pytest.fixture(scope="module")
def crop():
    return pu.load_dataset("cuprite_crop").crop(slice(0, 6), slice(0, 7))


@pytest.fixture(scope="module")
def make(crop):
    return minerals_on(crop.wavelengths, FEW, side=10)


@pytest.fixture(scope="module")
def fit(make):
    return train(make, steps=2, progress=False)


def test_scenes_are_those_of_the_recipe_and_depart_from_the_library(make, crop):
    scene = make(4)
    assert scene.shape == (10, 10, crop.n_bands) and list(scene.reference.endmember.values) == FEW
    same = pu.recipes.cuprite((10, 10), minerals=FEW, wavelengths=crop.wavelengths, seed=4, departure=0.05, brightness=0.3)
    np.testing.assert_array_equal(scene.reflectance, same.reflectance)
    library, apart = (make(4, departure=each).reference.endmembers.values for each in (0.0, 0.05))
    # Two factors of 5 %, of the sensor and of the mineral: 7 % in all.
    assert 0.02 < np.log(apart / library).std() < 0.15
    np.testing.assert_array_equal(scene.reference.abundances, make(4, departure=0.0).reference.abundances)


def test_scores(fit, make):
    scene = make(HELD_OUT)
    found = scores(fit, scene)
    truth, summary = scene.reference.abundances.values, fit.posterior(scene).summary()
    assert found["rmse"] == pytest.approx(np.sqrt(np.mean((summary.abundance_mean.values - truth) ** 2)), rel=1e-5)
    low, high = summary.abundance_quantile.sel(quantile=[0.05, 0.95]).values
    assert found["cover_90"] == pytest.approx(((low <= truth) & (truth <= high)).mean())
    assert 0 < found["seconds"] < 10 and found["cover_90"] <= found["cover_90_there"] + 1e-9
    # With the scene's own spectra, no brightness and hardly any noise fully constrained least squares is nearly exact.
    exact = make(HELD_OUT, departure=0.0, variability=0.0, brightness=0.0, snr_db=90.0)
    assert scores(fit, exact)["fcls_rmse"] < 1e-3 < found["fcls_rmse"]


def test_a_guide_is_asked_about_the_minerals_it_knows(fit, crop):
    more = minerals_on(crop.wavelengths, ["Chalcedony", *FEW], side=10)(HELD_OUT)
    truth = more.reference.abundances.sel(endmember=FEW).values
    mean = fit.posterior(more).summary().abundance_mean.values
    assert scores(fit, more)["rmse"] == pytest.approx(np.sqrt(np.mean((mean - truth) ** 2)), rel=1e-5)


def test_of_a_mineral_that_is_not_there_there_is_nothing(fit, crop):
    fewer = minerals_on(crop.wavelengths, FEW[:2], side=10)(HELD_OUT)
    mean = fit.posterior(fewer).summary().abundance_mean.values
    truth = np.concatenate([fewer.reference.abundances.values, np.zeros((10, 10, 1))], axis=2)
    assert scores(fit, fewer)["rmse"] == pytest.approx(np.sqrt(np.mean((mean - truth) ** 2)), rel=1e-5)


def test_transfer_writes_everything(crop, tmp_path):
    pu.save_scene(crop, tmp_path / "scene.npz")
    out = tmp_path / "out"
    table = run_transfer(out, str(tmp_path / "scene.npz"), minerals=FEW, steps=2, scenes=2, side=10, progress=False)
    assert len(table) == 2 and sorted(each.name for each in out.iterdir()) == [
        "config.json", "experiment.json", "history.csv", "holdout.csv", "maps.png", "minerals.csv", "pixels.nc", "report.html",
        "summary.nc", "table.md", "weights.pt"]
    minerals = pd.read_csv(out / "minerals.csv")
    assert list(minerals.mineral) == FEW and abs(minerals["mean"].sum() - 1) < 1e-6 and (minerals.sad < 0.1).all()
    assert json.loads((out / "experiment.json").read_text())["steps"] == 2
    assert pu.load_fit(out).names == FEW and "90 % intervals" in (out / "table.md").read_text()


def test_transfer_to_a_scene_without_wavelengths_is_refused(tmp_path):
    scene = pu.simulate_scene(3, (5, 5), n_bands=20)
    pu.save_scene(pu.Scene(scene.reflectance.values), tmp_path / "scene.npz")
    with pytest.raises(pu.InputError, match="wavelengths"):
        run_transfer(tmp_path / "out", str(tmp_path / "scene.npz"), progress=False)
    with pytest.raises(pu.InputError, match="minerals"):
        run_transfer(tmp_path / "out", minerals=["Alunite", "Gold"], progress=False)


def test_sensitivity_asks_about_every_shift(tmp_path, monkeypatch):
    shifts = {"none": {"as trained": {}}, "snr_db": {"20 dB": {"snr_db": 20.0}}}
    monkeypatch.setattr(sensitivity_module, "SHIFTS", shifts)
    monkeypatch.setattr(sensitivity_module, "CUPRITE_MINERALS", dict.fromkeys(FEW))
    monkeypatch.setattr(sensitivity_module, "minerals_on",
                        lambda grid, names=None, **size: minerals_on(grid, names or FEW, **size))
    table = run_sensitivity(tmp_path, steps=2, scenes=1, side=10, progress=False)
    assert list(table["shift"]) == ["none", "snr_db", "wrong mineral", "missing mineral"]
    assert np.isfinite(table[["rmse", "fcls_rmse", "cover_90"]]).all(axis=None) and table.findings.str.len().gt(0).all()
    text = (tmp_path / "table.md").read_text()
    assert text.count("\n") == 6 and "Alunite unknown" in text and (tmp_path / "sensitivity.png").stat().st_size > 5000
    figure = sensitivity(table)
    assert len(figure.axes) == 2 and figure.axes[1].get_xlim() == (0, 1)
