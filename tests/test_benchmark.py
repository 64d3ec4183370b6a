"""The benchmark: fair scenes, methods that see no reference, runs that cannot harm each other, tables that say what was found."""

from __future__ import annotations

import json
import logging
import os
import pickle
import signal
import time
from functools import partial

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import pytest
import torch
import xarray as xr

from pyro_unmix.baselines.archetypes import archetypes
from pyro_unmix.baselines.estimate import Estimate, with_fcls
from pyro_unmix.benchmark import methods, processes, run, runs, scenes, tables
from pyro_unmix.benchmark.scenes import Entry
from pyro_unmix.datasets import load_dataset
from pyro_unmix.errors import InputError
from pyro_unmix.initialize import initialize
from pyro_unmix.model import UnmixingModel
from pyro_unmix.scene import Scene
from pyro_unmix.simulate import simulate_scene

# Scenes


def by_name(entries):
    return {entry.name: entry for entry in entries}


def test_names_are_unique_and_entries_travel_to_other_processes():
    entries = scenes.choose(fresh=0)
    assert len(by_name(entries)) == len(entries) == 6 + 6 + 16 + 16
    for entry in entries:
        assert pickle.loads(pickle.dumps(entry)).recipe == entry.recipe
    assert by_name(entries)["mixed_bright_k5"].recipe == (
        "simulate_scene(5, (64, 64), n_bands=100, snr_db=30.0, concentration=0.2, max_abundance=0.8, brightness=0.25, seed=5)")


@pytest.mark.parametrize("k", [3, 5, 7, 9])
def test_simulated_scenes_differ_in_the_one_property(k):
    made = {name: entry.make() for name, entry in by_name(scenes.simulated()).items() if name.endswith(f"k{k}")}
    assert len(made) == 4
    for name, scene in made.items():
        truth = scene.reference
        np.testing.assert_array_equal(truth.endmembers, made[f"pure_k{k}"].reference.endmembers)
        purest = truth.abundances.max(["y", "x"]).values
        assert (purest > 0.95).all() if name.startswith("pure") else (purest <= np.float32(0.8)).all()
        signal = (truth.abundances.values @ truth.endmembers.values).astype(float)
        scatter = np.std(np.log(np.linalg.norm(scene.reflectance, axis=-1) / np.linalg.norm(signal, axis=-1)))
        assert 0.15 < scatter < 0.35 if "bright" in name else scatter < 0.02


def test_fresh_scenes_are_new():
    stated, fresh, other = (scenes.simulated(), *(scenes.choose(["fresh"], fresh=seed) for seed in (0, 1)))
    seeds = [{entry.make.keywords["seed"] for entry in entries} for entries in (stated, fresh, other)]
    assert [len(s) for s in seeds] == [4, 4, 4] and len(set.union(*seeds)) == 12
    assert {entry.kind for entry in fresh} == {"fresh"}


def test_scenes_are_chosen_by_name_or_kind():
    assert [entry.name for entry in scenes.choose(["pure_k3", "samson"])] == ["samson", "pure_k3"]
    assert {entry.kind for entry in scenes.choose(["simulated"])} == {"simulated"}
    assert [entry.name for entry in scenes.choose(["fresh_pure_k3"], fresh=2)] == ["fresh_pure_k3"]
    for names, options, message in ((["atlantis"], {}, "'atlantis'"), (["fresh"], {}, "--fresh"), (None, {"fresh": -1}, "-1")):
        with pytest.raises(InputError, match=message):
            scenes.choose(names, **options)


def test_public_scenes(real_data):
    expected = {"samson": 3, "samson_alt": 3, "jasper_ridge": 4, "urban_crop_4": 4, "urban_crop_6": 6, "muufl_crop": 5,
                "sim1_20db": 6, "dc1_40db": 5}
    entries = by_name(scenes.SCENES)
    for name, k in expected.items():
        assert set(entries[name].make().reference) == {"abundances", "endmembers"}, name
        assert entries[name].make().reference.sizes["endmember"] == k, name


def test_added_noise_has_the_stated_level(real_data):
    signal = load_dataset("dc1").reflectance.values.astype(float)
    for snr_db in (20, 40):
        noise = by_name(scenes.SCENES)[f"dc1_{snr_db}db"].make().reflectance.values - signal
        assert 10 * np.log10(np.mean(signal**2) / np.mean(noise**2)) == pytest.approx(snr_db, abs=0.05)


# Methods


@pytest.fixture
def spy(monkeypatch):
    """A stand-in for the baselines: one that keeps what it was given."""
    seen = {}

    def method(scene: Scene, n_endmembers: int, *, seed: int = 0) -> Estimate:
        seen.update(scene=scene, seed=seed)
        pixels = scene.pixels().astype(float)
        return Estimate(pixels[:n_endmembers], np.full((len(pixels), n_endmembers), 1 / n_endmembers))

    monkeypatch.setattr(methods, "METHODS", {"spy": method, "archetypes": with_fcls(archetypes)})
    return seen


def test_every_baseline_is_run_in_two_units(spy):
    assert methods.method_names() == ["spy", "spy/l2", "archetypes", "archetypes/l2", "start", "pyro_unmix"]
    assert methods.choose(["start", "spy/l2"]) == ["spy/l2", "start"]
    with pytest.raises(InputError, match="'vcaa'"):
        methods.choose(["spy", "vcaa"])


def test_what_a_baseline_is_given(spy, holed_scene):
    methods.unmix("spy", holed_scene, 3, seed=5)
    np.testing.assert_array_equal(spy["scene"].pixels(), holed_scene.pixels())
    summary = methods.unmix("spy/l2", holed_scene, 3, seed=6)
    np.testing.assert_allclose(np.linalg.norm(spy["scene"].pixels(), axis=1), 1.0, atol=1e-6)
    assert spy["seed"] == 6
    np.testing.assert_array_equal(summary.abundance_mean.isnull().all("endmember"), ~holed_scene.mask)


def test_no_method_is_given_the_reference(spy, monkeypatch):
    given = []
    monkeypatch.setattr(methods, "unmix", lambda method, scene, k, seed, really=methods.unmix: (
        given.append(scene), really(method, scene, k, seed))[1])
    for method in ("spy", "spy/l2", "start"):
        run.measure((TINY["tiny"], method, 0))
    assert all(scene.reference is None for scene in given) and len(given) == 3 and spy["scene"].reference is None


def test_start_is_what_initialize_finds(small_scene):
    summary = methods.unmix("start", small_scene, 3, seed=2)
    _, start = initialize(UnmixingModel(3), small_scene, seed=2)
    np.testing.assert_array_equal(summary.endmember_mean, start.endmembers)
    np.testing.assert_array_equal(summary.abundance_mean.values.reshape(-1, 3), start.abundances)


def test_ours_is_a_default_fit_with_its_intervals(monkeypatch, small_scene):
    calls = []

    class Stub:
        def posterior(self, scene):
            return self

        def summary(self):
            return xr.Dataset()

    monkeypatch.setattr(methods, "fit", lambda model, scene, **options: calls.append((model, scene, options)) or Stub())
    methods.unmix("pyro_unmix", small_scene, 3, seed=4)
    (model, scene, options), = calls
    assert model.n_endmembers == 3 and scene is small_scene and options == {"seed": 4, "progress": False}


# Processes


def grown(megabytes: int) -> dict:
    before = processes.peak_memory()
    held = np.ones(int(megabytes * 1e6) // 8)
    return {"grown": processes.peak_memory() - before, "sum": held.sum()}


def surroundings(_) -> dict:
    return {"threads": torch.get_num_threads(), "variable": os.environ["OPENBLAS_NUM_THREADS"], "process": os.getpid()}


def outcomes(work, tasks, **options):
    return dict(processes.each_alone(work, tasks, **options))


def test_each_task_has_a_process_with_one_thread_of_its_own(monkeypatch):
    monkeypatch.delenv("OPENBLAS_NUM_THREADS", raising=False)
    found = outcomes(surroundings, [1, 2, 3], jobs=2)
    assert {(f["threads"], f["variable"]) for f in found.values()} == {(1, "1")}
    assert len({f["process"] for f in found.values()} | {os.getpid()}) == 4
    assert "OPENBLAS_NUM_THREADS" not in os.environ


def test_memory_is_that_of_the_process_alone():
    found = outcomes(grown, [300, 100])
    assert found[300]["grown"] == pytest.approx(300, rel=0.1) and found[100]["grown"] == pytest.approx(100, rel=0.1)


@pytest.mark.parametrize("work, task, message", [
    (json.loads, "{", "JSONDecodeError: Expecting property name"),
    (os._exit, 3, "ended with code 3"),
    (signal.raise_signal, int(signal.SIGKILL), "code -9 .*out of memory"),
    (time.sleep, 60.0, "stopped after 0.5 s"),
])
def test_a_task_that_fails_is_told_and_harms_no_other(work, task, message):
    began = time.monotonic()
    (_, failed), = processes.each_alone(work, [task], timeout=0.5 if work is time.sleep else 60.0)
    assert set(failed) == {"error"}
    with pytest.raises(AssertionError, match=message):
        raise AssertionError(failed["error"])
    assert time.monotonic() - began < 30
    assert outcomes(json.loads, ['{"fine": 1}'])['{"fine": 1}'] == {"fine": 1}


def test_tasks_run_at_once_and_those_left_are_ended():
    runs = processes.each_alone(time.sleep, [0.01, 60.0], jobs=2)
    assert next(runs)[0] == 0.01  # the first to end, the other is still asleep
    began = time.monotonic()
    runs.close()
    assert time.monotonic() - began < 10


# Runs

TINY = by_name([
    Entry("tiny", "real", "one", partial(simulate_scene, 3, (10, 9), n_bands=12, brightness=0.2, seed=1, name="tiny")),
    Entry("few", "simulated", "two", partial(simulate_scene, 3, (1, 2), n_bands=12, seed=2)),  # pixels for three endmembers
])


@pytest.fixture
def tiny(monkeypatch, spy):
    monkeypatch.setattr(scenes, "SCENES", list(TINY.values()))
    monkeypatch.setattr(run.plot, "benchmark", lambda results: plt.figure(figsize=(1, 1)))


def bench(out, **options):
    return run.run_benchmark(out, **{"methods": ["start"], "seeds": 2, "progress": False, **options})


def test_a_benchmark_writes_what_it_found(tiny, tmp_path):
    results = bench(tmp_path / "out")
    assert {path.name for path in (tmp_path / "out").iterdir()} == {"results.csv", "config.json", "table.md", "benchmark.png"}
    assert list(results.columns) == run.COLUMNS
    assert [tuple(row) for row in results[["scene", "method", "seed"]].values] == [
        (scene, "start", seed) for scene in ("tiny", "few") for seed in (0, 1)]
    good, failed = results[results.scene == "tiny"], results[results.scene == "few"]
    assert good.error.isna().all() and failed.error.str.contains("pixels in use").all() and failed.rmse.isna().all()
    for row in good.itertuples():
        expected = run.measure((TINY["tiny"], "start", row.seed))
        for figure in ("rmse", "rmse_unmatched", "sad"):
            assert getattr(row, figure) == pytest.approx(expected[figure], rel=1e-4)
        per_endmember = json.loads(row.sad_per_endmember)
        assert list(per_endmember) == [f"material {i}" for i in (1, 2, 3)]
        assert np.mean(list(per_endmember.values())) == pytest.approx(row.sad)
        assert row.wall_seconds > 0 and row.cpu_seconds > 0 and row.peak_memory_mb > 0
    config = json.loads((tmp_path / "out" / "config.json").read_text())
    assert config["scenes"]["tiny"]["made by"] == TINY["tiny"].recipe and config["scenes"]["few"]["endmembers"] == 3
    assert config["seeds"] == [0, 1] and config["preprocessing"] and config["versions"] and config["machine"]


def test_a_killed_benchmark_goes_on(tiny, tmp_path, monkeypatch):
    done = []

    def killed(work, tasks, **options):
        done.append([(task[0].name, *task[1:]) for task in tasks])
        yield tasks[0], {"rmse": 0.123}
        if len(done) == 1:
            raise KeyboardInterrupt
        yield from ((task, {"rmse": 0.456}) for task in tasks[1:])

    monkeypatch.setattr(runs, "each_alone", killed)
    with pytest.raises(KeyboardInterrupt):
        bench(tmp_path)
    assert not (tmp_path / "table.md").exists()
    assert bench(tmp_path).rmse.tolist() == [0.123, 0.123, 0.456, 0.456]  # none run twice
    assert done[1] == done[0][1:]
    before = (tmp_path / "results.csv").read_bytes()
    monkeypatch.setattr(runs, "each_alone", lambda work, tasks, **options: iter(tasks))  # would fail if there were any
    bench(tmp_path)
    assert (tmp_path / "results.csv").read_bytes() == before


@pytest.mark.parametrize("options, what", [({"seeds": 3}, "seeds"), ({"scenes": ["tiny"]}, "scenes"), ({"jobs": 2}, "jobs"),
                                           ({"methods": ["spy"]}, "methods"), ({"timeout": 5.0}, "timeout_seconds")])
def test_a_folder_holds_one_benchmark(tiny, tmp_path, monkeypatch, options, what):
    monkeypatch.setattr(runs, "each_alone", lambda work, tasks, **options: ((task, {"rmse": 0.1}) for task in tasks))
    bench(tmp_path)
    before = (tmp_path / "results.csv").read_bytes()
    with pytest.raises(InputError, match=f"with other {what};"):
        bench(tmp_path, **options)
    assert (tmp_path / "results.csv").read_bytes() == before
    for damage in ("{", "[]"):
        (tmp_path / "config.json").write_text(damage)
        with pytest.raises(InputError, match="readable config.json"):
            bench(tmp_path)


def test_a_scene_without_data_is_left_out_unless_named(tiny, tmp_path, monkeypatch, caplog):
    monkeypatch.delenv("PYRO_UNMIX_DATA", raising=False)
    missing = Entry("muufl", "real", "one", partial(load_dataset, "muufl_crop"))
    monkeypatch.setattr(scenes, "SCENES", [missing, TINY["few"]])
    with caplog.at_level(logging.INFO, logger="pyro_unmix"):
        assert set(bench(tmp_path / "a").scene) == {"few"}
    assert ["left out muufl: expected muufl_crop.npz" in line for line in caplog.messages] == [True]
    for names in (["muufl"], ["real"]):  # named, or nothing else is left
        with pytest.raises(InputError, match="data|muufl_crop"):
            bench(tmp_path / "b", scenes=names)
    assert not (tmp_path / "b").exists()


@pytest.mark.parametrize("options", [{"seeds": 0}, {"jobs": 0}, {"timeout": 0.0}, {"timeout": np.nan}])
def test_numbers_that_make_no_sense(tiny, tmp_path, options):
    with pytest.raises(InputError, match="at least one seed"):
        bench(tmp_path, **options)


# Tables


def results_of(*rows):
    """Rows (scene, kind, method, errors over seeds); NaN failed."""
    return pd.DataFrame([
        dict(scene=scene, kind=kind, group="some", method=method, seed=seed, rmse=error, sad=2 * error, rmse_unmatched=error,
             wall_seconds=1.0, cpu_seconds=0.5, peak_memory_mb=120.4, error="it | broke" if np.isnan(error) else np.nan)
        for scene, kind, method, errors in rows for seed, error in enumerate(errors)])


def lines_of(text, start):
    return [line for line in text.splitlines() if line.startswith(start)]


def test_tables_give_median_spread_and_marks():
    text = tables.write_tables(results_of(
        ("a", "real", "vca", [0.1, 0.2, 0.4]), ("a", "real", "spa", [0.3, 0.3, np.nan]), ("a", "real", "sivm", [np.nan] * 3),
        ("a", "real", "start", [0.01] * 3), ("a", "real", "pyro_unmix", [0.15, 0.2, 0.1]),
        ("b", "simulated", "vca", [0.1] * 3), ("b", "simulated", "pyro_unmix", [0.1, 0.12, 0.12])))
    assert lines_of(text, "| vca ")[:2] == ["| vca | **0.200** (0.300) |", "| vca | **0.400** (0.600) |"]
    assert lines_of(text, "| spa ")[0] == "| spa | 0.300 (0.000)† |"
    assert lines_of(text, "| sivm ")[0] == "| sivm | – |"
    assert lines_of(text, "| start ")[0] == "| start | 0.010 (0.000) |"  # the best, and no baseline
    assert lines_of(text, "| **pyro_unmix** ")[0] == "| **pyro_unmix** | 0.150 (0.100) ◀ |"
    assert "| vca | **120** (0) |" in text and "| vca | **1.00** (0.00) |" in text
    assert lines_of(text, "| a | vca") == ["| a | vca 0.200 | 0.150 ◀ | vca 0.400 | 0.300 ◀ |"]
    assert lines_of(text, "| b | vca") == ["| b | vca 0.100 | 0.120 | vca 0.200 | 0.240 |"]
    assert text.index("## Real") < text.index("| a |") < text.index("## Simulated") < text.index("| b |")
    assert r"| a | sivm | 2 | it \| broke |" in text


def test_tables_of_one_seed_without_baselines_or_ours():
    text = tables.write_tables(results_of(("a", "fresh", "start", [0.1])))
    assert "| start | 0.100 |" in text and "| a | – | – | – | – |" in [line.replace("|  –", "| –") for line in text.splitlines()]
    assert "failed" not in text.split("## Fresh")[1]
