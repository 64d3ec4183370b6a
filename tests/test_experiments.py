"""The paper's experiments: an honest split, runs that go on, and files that say what was done."""

from __future__ import annotations

import json
from functools import partial

import numpy as np
import pandas as pd
import pytest
import xarray as xr
from scipy import ndimage

from pyro_unmix.benchmark import runs
from pyro_unmix.benchmark.scenes import Entry
from pyro_unmix.errors import InputError
from pyro_unmix.experiments import EXPERIMENTS, ablation, contexts, many_endmembers, run_ablation
from pyro_unmix.experiments.run import FEW_STEPS, scene_of
from pyro_unmix.experiments.split import split
from pyro_unmix.experiments.tables import FIGURES, write_table
from pyro_unmix.guide import ENCODERS, UnmixingGuide
from pyro_unmix.simulate import simulate_scene

TINY = Entry("tiny", "simulated", "one", partial(simulate_scene, 3, (20, 24), n_bands=12, concentration=0.3, seed=1))
LEFT_THIRD = "columns 0 to 7 (left third) labelled, 8 left out, columns 16 to 23 scored"


@pytest.fixture
def tiny(monkeypatch):
    for experiment in (ablation, contexts, many_endmembers):
        monkeypatch.setattr(experiment, "SCENES", [TINY])


def tried(out, **options):
    return run_ablation(out, **{"smoke": True, "progress": False, "encoders": ["mlp"], **options})


# Which pixels are labelled, and which are scored


def with_purity(rows, cols, pure):
    """Two materials, half of each everywhere but that the pixels `pure` hold .9 of the second."""
    second = np.full((rows, cols), 0.25)
    for y, x in pure:
        second[y, x] = 0.9
    return xr.DataArray(np.stack([1 - second, second], axis=-1), dims=("y", "x", "endmember"))


@pytest.mark.parametrize("side, pixel, rows, cols", [
    ("left", (0, 9), 40, 30), ("right", (20, 20), 40, 30), ("top", (3, 14), 40, 30), ("bottom", (39, 14), 40, 30),
])
def test_no_scored_pixel_is_within_the_context_of_a_labelled_one(side, pixel, rows, cols):
    abundances = with_purity(rows, cols, [pixel])
    parts = split(abundances, ablation.GAP)
    assert parts.side == side
    labels = parts.labels(abundances)
    labelled = np.isfinite(labels).all(axis=-1)
    assert labelled[pixel] and np.array_equal(labels[labelled], abundances.values[labelled])
    assert np.isnan(labels[~labelled]).all()
    scored = np.zeros_like(labelled)
    scored[parts.test] = True
    for encoder in ENCODERS:
        reach = UnmixingGuide(encoder).halo
        assert not (ndimage.binary_dilation(labelled, np.ones((2 * reach + 1,) * 2)) & scored).any(), encoder
    # All the rest is scored: nothing was chosen.
    assert (ndimage.binary_dilation(labelled, np.ones((2 * ablation.GAP + 1,) * 2)) | scored).all()


def test_the_gap_is_the_widest_context():
    assert ablation.GAP == max(UnmixingGuide(encoder).halo for encoder in ENCODERS) == 8


@pytest.mark.parametrize("rows, cols, pure", [(40, 30, []), (12, 12, [(0, 0)])])
def test_a_scene_that_cannot_be_split(rows, cols, pure):
    with pytest.raises(InputError, match=f"{rows} x {cols} pixels"):
        split(with_purity(rows, cols, pure), 8)


def test_every_scene_is_labelled_on_its_left(real_data):
    for entry in ablation.SCENES:
        assert ablation.split_of(entry.make()).side == "left", entry.name
        ablation.split_of(scene_of(entry.make(), smoke=True))  # can be tried
    assert [entry.name for entry in ablation.SCENES] == ["samson", "urban_crop_4", "cuprite", "ontech"]


def test_labels_say_what_amplitude_abundances_are_for():
    """The reference's spectra are in another amplitude than its abundances, as in public scenes: what has learned from the
    abundances is right as it is."""
    reference = TINY.make().reference
    parts = split(reference.abundances, ablation.GAP)
    summary = xr.Dataset({"abundance_mean": reference.abundances, "endmember_mean": reference.endmembers})
    reference["endmembers"] = reference.endmembers * xr.DataArray([1.0, 3.0, 0.5], dims="endmember")
    right = ablation.score(summary, reference, parts, labelled=True)
    assert right.rmse < 1e-6 and right.sad < 1e-6 and right.n_pixels == 20 * 8
    assert ablation.score(summary, reference, parts, labelled=False).rmse > 0.05


# Runs


def test_an_ablation_writes_what_it_found(tiny, tmp_path):
    results = tried(tmp_path, heads=["auto", "softmax"])
    assert {path.name for path in tmp_path.iterdir()} == {"results.csv", "config.json", "table.md", "ablation.png"}
    assert list(results.columns) == ["scene", "mode", "encoder", "head", "seed", *FIGURES, "error"]
    assert len(results) == 4 and results.error.isna().all() and results[list(FIGURES)].notna().all(axis=None)
    labelled = results[results["mode"] == "supervised"]
    np.testing.assert_allclose(labelled.rmse, labelled.rmse_unmatched, rtol=1e-5)
    config = json.loads((tmp_path / "config.json").read_text())
    assert config["split"] == {"tiny": LEFT_THIRD} and config["versions"] and config["machine"] and config["smoke"] is True
    assert config["scenes"]["tiny"]["made by"] == TINY.recipe
    assert config["heads"]["softmax"]["mse_weight"] == 10.0 and config["heads"]["softmax"]["config"]["calibration_steps"] == 0
    assert config["heads"]["auto"]["config"]["svi_steps"] == FEW_STEPS.svi_steps
    table = (tmp_path / "table.md").read_text()
    assert f"tiny: {LEFT_THIRD}" in table and "mse_weight 10" in table
    assert sum(line.startswith("| tiny |") for line in table.splitlines()) == 4


def test_runs_that_are_there_are_not_run_again(tiny, tmp_path, monkeypatch):
    done = []

    def killed(work, tasks, **options):
        done.append([task.row()["mode"] for task in tasks])
        for task in tasks:
            yield task, {"rmse": 0.1, "sad": 0.2}
            if len(done) == 1:
                raise KeyboardInterrupt

    monkeypatch.setattr(runs, "each_alone", killed)
    with pytest.raises(KeyboardInterrupt):
        tried(tmp_path, heads=["auto"])
    assert not (tmp_path / "table.md").exists()
    assert tried(tmp_path, heads=["auto"]).rmse.tolist() == [0.1, 0.1]
    before = (tmp_path / "results.csv").read_bytes()
    tried(tmp_path, heads=["auto"])
    assert done == [["blind", "supervised"], ["supervised"], []]
    assert (tmp_path / "results.csv").read_bytes() == before
    with pytest.raises(InputError, match="with other heads"):
        tried(tmp_path, heads=["softmax"])


@pytest.mark.parametrize("name, methods", [("contexts", contexts.METHODS), ("many-endmembers", many_endmembers.METHODS)])
def test_methods_side_by_side(tiny, tmp_path, name, methods):
    results = EXPERIMENTS[name](tmp_path, smoke=True, progress=False)
    assert {path.name for path in tmp_path.iterdir()} == {"results.csv", "config.json", "table.md", f"{name}.png"}
    assert results.method.tolist() == list(methods) and results.error.isna().all()
    assert results.rmse.notna().all() and results.coverage_90.notna().sum() == len(set(methods) & set(ENCODERS))


def test_endmembers_from_few_to_many():
    assert {entry.name: entry.make.args for entry in many_endmembers.SCENES if entry.make.args} == {
        f"k{k}": (k, (64, 64)) for k in (3, 5, 8, 12, 16, 20)}
    assert many_endmembers.SCENES[-1].name == "cuprite"


@pytest.mark.parametrize("options, message", [
    ({"scenes": ["atlantis"]}, "scenes among tiny, got 'atlantis'"), ({"modes": ["half"]}, "'half'"), ({"encoders": []}, "none"),
    ({"heads": ["beta"]}, "heads among auto, softmax"), ({"seeds": 0, "smoke": False}, "at least one seed"),
    ({"jobs": 0}, "one job"),
])
def test_what_cannot_be(tiny, tmp_path, options, message):
    with pytest.raises(InputError, match=message):
        tried(tmp_path / "out", **options)
    assert not (tmp_path / "out").exists()


# Tables


def test_a_table_gives_median_range_and_failures():
    results = pd.DataFrame([
        {"scene": scene, "seed": seed, "rmse": rmse, "sad": 2 * rmse, "rmse_unmatched": rmse, "coverage_90": 0.9, "crps": rmse,
         "cpu_seconds": 12.4, "error": "it | broke" if np.isnan(rmse) else np.nan}
        for scene, errors in (("a", [0.1, 0.3, 0.2]), ("b", [np.nan])) for seed, rmse in enumerate(errors)])
    lines = write_table("some", results, ["scene"], ["A note."]).splitlines()
    assert "- A note." in lines
    row = next(line for line in lines if line.startswith("| a |"))
    assert row.startswith("| a | 3 | 0.2000 (0.1000 to 0.3000) |") and row.endswith("| 12 (12 to 12) |")
    assert [line for line in lines if line.startswith("| b |")] == [
        "| b | 0 | – | – | – | 0.90 | – | 12 |", "| b | 0 | it \\| broke |"]
