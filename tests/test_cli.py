"""The command line: what it writes, what it says, and how it ends."""

from __future__ import annotations

import contextlib
import errno
import io
import json
import logging
import os
import re
import signal
import struct
import subprocess
import sys
import time
import warnings
from dataclasses import dataclass, replace
from functools import partial
from importlib.metadata import version

import numpy as np
import pytest
import rasterio
import scipy.io
import torch
import xarray as xr

import pyro_unmix as pu
from pyro_unmix import cli, report
from pyro_unmix.benchmark import methods, scenes
from pyro_unmix.benchmark.scenes import Entry
from pyro_unmix.experiments import ablation, contexts

K, L = 3, 12
SETTINGS = dict(svi_steps=6, calibration_steps=4, sampling_steps=40, kl_warmup_steps=2, tile_size=16, device="cpu")
FILES = {"summary.nc", "config.json", "weights.pt", "history.csv", "pixels.nc", "report.html"}


@dataclass
class Outcome:
    code: int
    out: str
    err: str


def run(*arguments) -> Outcome:
    """`pyro-unmix ARGUMENTS` in this process, which is left as it was."""
    out, err = io.StringIO(), io.StringIO()
    loggers = [logging.getLogger(), logging.getLogger("pyro_unmix"), logging.getLogger("asyncio")]
    state = [(logger.level, logger.handlers[:]) for logger in loggers]
    with pytest.MonkeyPatch.context() as patch, warnings.catch_warnings(), \
            contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        patch.setattr(sys, "argv", ["pyro-unmix", *map(str, arguments)])
        patch.setattr(sys, "unraisablehook", sys.unraisablehook)  # to be put back
        warnings.simplefilter("default")
        try:
            cli.main()
            code = 0
        except SystemExit as stop:
            code = stop.code or 0
        finally:
            for logger, (level, handlers) in zip(loggers, state, strict=True):
                logger.setLevel(level)
                logger.handlers[:] = handlers
    return Outcome(code, out.getvalue(), err.getvalue())


def works(*arguments) -> Outcome:
    outcome = run(*arguments)
    assert outcome.code == 0, outcome.err
    return outcome


def assert_refused(outcome: Outcome, message: str, code: int = 2) -> None:
    """The contract: an exit code, one plain line on stderr, no traceback."""
    assert outcome.code == code and outcome.out == ""
    assert outcome.err.startswith("error: ") and outcome.err.count("\n") == 1 and outcome.err.endswith("\n"), outcome.err
    assert re.search(message, outcome.err), outcome.err


def assert_refused_with_progress(outcome: Outcome, message: str) -> None:
    """The same of long work, whose progress stands before."""
    assert_refused(replace(outcome, err="".join(outcome.err.splitlines(keepends=True)[-1:])), message)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A scene, settings for a short fit, and a library."""
    folder = tmp_path_factory.mktemp("cli")
    scene = pu.simulate_scene(K, (12, 11), n_bands=L, brightness=0.2, seed=3)
    pu.save_scene(scene, folder / "scene.npz")
    (folder / "short.toml").write_text("\n".join(f"{name} = {json.dumps(value)}" for name, value in SETTINGS.items()))
    grid = np.linspace(380, 2520, 40)
    spectra = [np.interp(grid, scene.wavelengths, s) for s in scene.reference.endmembers.values]
    np.savez(folder / "library.npz", spectra=[*spectra, np.full(40, 0.5)], names=["red oak", "soil", "beech", "grey"],
             wavelengths=grid)
    return folder


@pytest.fixture(scope="module")
def options(folder):
    """Of a short fit of the scene, but for where to write."""
    return ["fit", folder / "scene.npz", "-k", K, "--guide", "mlp", "--config", folder / "short.toml"]


def drawn_elsewhere(folder):
    """In place of the report: drawing takes longer than all the rest."""
    (folder / "report.html").touch()


@pytest.fixture
def no_report(monkeypatch):
    monkeypatch.setattr(report, "write_report", drawn_elsewhere)


@pytest.fixture(scope="module")
def finished(folder, options):
    """The folder of a fit with draws; not to be changed."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(report, "write_report", drawn_elsewhere)
        works(*options, "--seed", 7, "--draws", 5, "--out", folder / "run")
    return folder / "run"


def opened(path, **options):
    with xr.open_dataset(path, engine="h5netcdf", **options) as dataset:
        return dataset.load()


# fit


def test_fit_writes_the_files_of_the_contract(finished, tmp_path, options, no_report):
    assert {path.name for path in finished.iterdir()} == FILES | {"draws.nc"}
    outcome = works(*options, "--out", tmp_path / "deep" / "run")
    assert {path.name for path in (tmp_path / "deep" / "run").iterdir()} == FILES
    assert f"wrote {tmp_path / 'deep' / 'run'}" in outcome.out  # whole, however long the line


def test_fit_equals_the_same_calls_in_memory(finished, folder):
    scene = pu.open_scene(folder / "scene.npz")
    fit = pu.fit(pu.UnmixingModel(K), scene, guide="mlp", seed=7, config=pu.FitConfig(**SETTINGS), progress=False)
    summary = opened(finished / "summary.nc")
    xr.testing.assert_equal(summary, fit.posterior(scene).summary())
    assert summary.attrs["seed"] == 7 and summary.attrs["scene"] == "scene"
    draws = opened(finished / "draws.nc", group="posterior").isel(chain=0, drop=True)
    xr.testing.assert_equal(draws, fit.posterior(scene).draws(5, seed=7))
    assert (finished / "history.csv").read_text().count("\n") == 11


@pytest.mark.parametrize("brightness", ["none", "pixel"])
def test_brightness(options, tmp_path, no_report, brightness):
    works(*options, "--brightness", brightness, "--out", tmp_path)
    assert ("brightness_mean" in opened(tmp_path / "summary.nc")) == (brightness == "pixel")


def test_number_of_endmembers_from_the_scene(folder, options, tmp_path, no_report, caplog):
    works("fit", folder / "scene.npz", "-k", "auto", *options[4:], "--out", tmp_path)
    assert sum("3 endmembers, an estimate" in message for message in caplog.messages) == 1
    assert opened(tmp_path / "summary.nc").sizes["endmember"] == K
    assert json.loads((tmp_path / "config.json").read_text())["n_endmembers"] == K


def test_library_names_and_informs_the_endmembers(folder, options, tmp_path, no_report):
    works(*options, "--library", folder / "library.npz", "--materials", "oak, beech,soil", "--out", tmp_path)
    summary = opened(tmp_path / "summary.nc")
    assert summary.endmember.values.tolist() == ["red oak", "beech", "soil"]
    known = pu.open_library(folder / "library.npz").select(["oak", "beech", "soil"]).resample(summary.wavelength.values)
    ratio = summary.endmember_mean.values / known.spectra
    # One common factor, the amplitude of the scene, and what the scene says against a prior standard deviation of 0.1.
    assert ratio.std() < 0.15 * ratio.mean()


def test_library_by_name(folder, options, tmp_path, no_report, monkeypatch):
    known = pu.open_library(folder / "library.npz")
    monkeypatch.setattr(cli.libraries, "load_library", {"berlin": known}.__getitem__)
    works(*options, "--library", "berlin", "--materials", "oak,beech,soil", "--out", tmp_path)
    assert opened(tmp_path / "summary.nc").endmember.values.tolist() == ["red oak", "beech", "soil"]


def test_pixels_without_a_value_are_masked_and_counted(folder, options, tmp_path, no_report):
    image = np.load(folder / "scene.npz")["image"].copy()
    image[0, :3, 5] = np.nan
    np.savez(tmp_path / "holes.npz", image=image)
    outcome = works("fit", tmp_path / "holes.npz", *options[2:], "--out", tmp_path / "run")
    assert "warning: 3 of 132 pixels have a value that is not finite and are masked\n" in outcome.err
    missing = opened(tmp_path / "run" / "summary.nc").abundance_mean.isnull().all("endmember")
    assert missing.sum() == 3 and missing[0, :3].all()


def test_micrometres_are_converted_and_said(folder, options, tmp_path, no_report):
    with np.load(folder / "scene.npz") as scene:
        np.savez(tmp_path / "micro.npz", image=scene["image"], wavelengths=scene["wavelengths"] / 1000)
        nanometres = scene["wavelengths"]
    outcome = works("fit", tmp_path / "micro.npz", *options[2:], "--out", tmp_path / "run")
    assert "warning: wavelengths from 0.4 to 2.5 are taken as micrometres and converted to nanometres\n" in outcome.err
    summary = opened(tmp_path / "run" / "summary.nc")
    np.testing.assert_allclose(summary.wavelength, nanometres)
    assert summary.wavelength.attrs["units"] == "nm"


def test_resume_of_a_finished_fit_changes_nothing(options, finished):
    before = {path.name: path.stat().st_mtime_ns for path in finished.iterdir()}
    outcome = works(*options, "--out", finished, "--resume")
    assert "finished" in outcome.out
    assert before == {path.name: path.stat().st_mtime_ns for path in finished.iterdir()}


@pytest.mark.parametrize("every", [2, 100], ids=["checkpoint", "no checkpoint yet"])
def test_interrupted_fit_keeps_what_there_is_and_can_go_on(folder, options, tmp_path, no_report, monkeypatch, every):
    (tmp_path / "often.toml").write_text((folder / "short.toml").read_text() + f"\ncheckpoint_every = {every}")
    arguments = [*options[:-1], tmp_path / "often.toml", "--out", tmp_path / "run"]
    with monkeypatch.context() as patch:
        patch.setattr("pyro_unmix.pairs.PosteriorScenes.__call__", lambda *_: (_ for _ in ()).throw(KeyboardInterrupt))
        outcome = works(*arguments)
    assert outcome.err.count("warning: training was interrupted in stage 'calibrate'") == 1
    config = json.loads((tmp_path / "run" / "config.json").read_text())
    assert config["interrupted"] and not config["calibrated"] and (tmp_path / "run" / "summary.nc").exists()
    outcome = works(*arguments, "--resume")
    assert "nothing to resume" not in outcome.out
    assert json.loads((tmp_path / "run" / "config.json").read_text())["calibrated"]
    assert {path.name for path in (tmp_path / "run").iterdir()} == FILES
    assert "nothing to resume" in works(*arguments, "--resume").out


def test_divergence_has_its_own_exit_code(folder, options, tmp_path):
    (tmp_path / "wild.toml").write_text("learning_rate = 1e6\nsvi_steps = 10\ndevice = 'cpu'")
    outcome = run(*options[:-1], tmp_path / "wild.toml", "--out", tmp_path / "run")
    assert_refused(outcome, "training diverged at step 1: '.*' is not finite; lower the learning rate", code=3)
    assert not (tmp_path / "run" / "summary.nc").exists()


def test_an_empty_training_still_reports(options, folder, tmp_path):
    (tmp_path / "none.toml").write_text("svi_steps = 0\ncalibration_steps = 0")
    works(*options[:-1], tmp_path / "none.toml", "--out", tmp_path / "run")
    assert "too narrow" in (tmp_path / "run" / "report.html").read_text()


def test_killed_fit_goes_on_to_the_same_end(folder, options, tmp_path, no_report):
    """The installed command, killed without a chance to tidy up, as soon as it has left a checkpoint."""
    (tmp_path / "often.toml").write_text("svi_steps = 60\ncalibration_steps = 6\nsampling_steps = 40\ncheckpoint_every = 5\n"
                                         "tile_size = 16\ndevice = 'cpu'")
    arguments = [*map(str, options[:-1]), str(tmp_path / "often.toml")]
    checkpoint = tmp_path / "run" / "checkpoint.pt"
    script = os.path.join(os.path.dirname(sys.executable), "pyro-unmix")
    command = [script] if os.path.exists(script) else [sys.executable, "-c", "from pyro_unmix.cli import main; main()"]
    threads = {"OMP_NUM_THREADS": str(torch.get_num_threads())}  # another number would round sums in another way
    process = subprocess.Popen([*command, *arguments, "--out", str(tmp_path / "run")], env=os.environ | threads,
                               stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True)
    patience = time.monotonic() + 60
    while not checkpoint.exists() and process.poll() is None and time.monotonic() < patience:
        time.sleep(0.005)
    process.send_signal(signal.SIGKILL)
    assert process.wait() == -signal.SIGKILL and checkpoint.exists(), process.stderr.read()
    process.stderr.close()
    works(*arguments, "--out", tmp_path / "run", "--resume")
    assert not checkpoint.exists()
    works(*arguments, "--out", tmp_path / "whole")
    one, other = (torch.load(tmp_path / name / "weights.pt", weights_only=True)["guide"] for name in ("run", "whole"))
    assert all(torch.equal(one[name], other[name]) for name in other)
    xr.testing.assert_equal(opened(tmp_path / "run" / "summary.nc"), opened(tmp_path / "whole" / "summary.nc"))


def test_a_fit_that_cannot_be_saved_has_lost_nothing(folder, options, tmp_path, no_report, monkeypatch):
    """The checkpoint stays until the result is written: training is not done again."""
    arguments = [*options, "--out", tmp_path / "run"]
    with monkeypatch.context() as patch:
        patch.setattr(cli, "save_run", lambda *_, **__: (_ for _ in ()).throw(OSError(errno.EIO, "Input/output error")))
        assert_refused_with_progress(run(*arguments), "Input/output error")
    assert [path.name for path in (tmp_path / "run").iterdir()] == ["checkpoint.pt"]
    monkeypatch.setattr("pyro_unmix.training.Trainer._train_step", lambda *_: pytest.fail("trained again"))
    works(*arguments, "--resume")
    assert {path.name for path in (tmp_path / "run").iterdir()} == FILES


def test_a_second_fit_in_a_folder_is_not_taken_for_finished(options, tmp_path, no_report, monkeypatch):
    arguments = [*options, "--out", tmp_path / "run"]
    works(*arguments)
    with monkeypatch.context() as patch:
        patch.setattr(cli, "fit_scene", lambda *_, **__: (_ for _ in ()).throw(MemoryError("killed before any checkpoint")))
        assert_refused(run(*arguments, "--seed", 1), "MemoryError: killed before any checkpoint")
    assert "nothing to resume" not in works(*arguments, "--seed", 1, "--resume").out
    assert json.loads((tmp_path / "run" / "config.json").read_text())["seed"] == 1


# The other commands


def test_predict_is_the_posterior_of_the_fit(finished, folder, tmp_path):
    outcome = works("predict", finished, folder / "scene.npz", "--out", tmp_path / "deep" / "again.nc")
    xr.testing.assert_equal(opened(tmp_path / "deep" / "again.nc"), opened(finished / "summary.nc"))
    assert f"wrote {tmp_path / 'deep' / 'again.nc'}" in outcome.out
    pu.save_scene(pu.simulate_scene(K, (5, 17), n_bands=L, seed=9), tmp_path / "other.npz")
    works("predict", finished, tmp_path / "other.npz", "--out", tmp_path / "other.nc")
    assert opened(tmp_path / "other.nc").abundance_mean.shape == (5, 17, K)


def test_evaluate(finished, folder):
    scene = pu.open_scene(folder / "scene.npz")
    expected = pu.evaluate(opened(finished / "summary.nc"), scene.reference)
    figures = json.loads(works("evaluate", finished / "summary.nc", folder / "scene.npz", "--json").out)
    assert figures == expected.to_dict() and 0 < figures["rmse"] < 1
    assert works("evaluate", finished / "summary.nc", folder / "scene.npz").out == f"{expected}\n"


def test_simulate_makes_a_scene_of_its_seed(tmp_path):
    size = ["--rows", 9, "--cols", 7, "--bands", 11, "-k", 3]
    outcome = works("simulate", "brightness", "--out", tmp_path / "a.npz", "--seed", 2, *size)
    scene = pu.open_scene(tmp_path / "a.npz")
    assert scene.shape == (9, 7, 11) and scene.reference.sizes["endmember"] == 3
    assert "9 x 7 pixels" in outcome.out
    works("simulate", "brightness", "--out", tmp_path / "b.npz", "--seed", 2, *size)
    works("simulate", "brightness", "--out", tmp_path / "c.npz", "--seed", 3, *size)
    again, other = (pu.open_scene(tmp_path / name).reflectance for name in ("b.npz", "c.npz"))
    assert scene.reflectance.equals(again) and not scene.reflectance.equals(other)


def test_simulate_passes_its_options_on(tmp_path, monkeypatch):
    made = []
    monkeypatch.setitem(cli.recipes.RECIPES, "cuprite", lambda **options: made.append(options) or pu.simulate_scene(3, (4, 4)))
    works("simulate", "cuprite", "--out", tmp_path / "a.npz", "--seed", 2, "--rows", 5, "--snr", 20, "--pure-share", 0.2,
          "--minerals", "Alunite, Sphene", "--variability", 0.5, "--brightness", 0, "--correlation-length", 3,
          "--concentration", 2)
    assert made == [{"seed": 2, "shape": (5, 64), "snr_db": 20.0, "pure_share": 0.2, "minerals": ["Alunite", "Sphene"],
                     "variability": 0.5, "brightness": 0.0, "correlation_length": 3.0, "concentration": 2.0}]


def test_simulate_mixes_as_it_is_told(tmp_path):
    size = ["--rows", 4, "--cols", 5, "--bands", 11, "-k", 3]
    for name in ("linear", "hapke"):
        works("simulate", "linear", "--mixing", name, "--out", tmp_path / f"{name}.npz", *size)
    one, other = (pu.open_scene(tmp_path / f"{name}.npz") for name in ("linear", "hapke"))
    assert one.reference.equals(other.reference) and not one.reflectance.equals(other.reflectance)
    for recipe, name, complaint in (("linear", "cubic", "a mixing"), ("cuprite", "fan", "options that recipe 'cuprite' takes")):
        assert_refused(run("simulate", recipe, "--mixing", name, "--out", tmp_path / "c.npz"), complaint)


def test_info_tells_what_is_in_a_scene(folder, tmp_path):
    told = works("info", folder / "scene.npz").out
    for what in ("12 rows x 11 columns x 12 bands", "132 of 132 (100.0 %)", "400.0 to 2500.0 nm", "material 1"):
        assert what in told
    image = np.load(folder / "scene.npz")["image"]
    np.savez(tmp_path / "bare.npz", image=image, abundances=np.full((12, 11, 2), 0.5), names=["[red] oak", "soil"])
    told = works("info", tmp_path / "bare.npz").out
    assert "unknown" in told and "[red] oak" in told  # brackets are no markup here


def test_info_estimates_the_number_of_endmembers(folder, tmp_path):
    told = works("info", folder / "scene.npz").out
    assert re.search(r"endmembers +about 3,", told) and re.search(r"\d+ directions by HySime, \d+ by HFC", told)
    np.savez(tmp_path / "few.npz", image=image_of(folder)[:3, :4])
    told = " ".join(works("info", tmp_path / "few.npz").out.split())
    assert "endmembers no estimate: expected" in told and "more pixels than bands, got an array of shape (12, 12)" in told


def test_report_can_be_written_again(finished, tmp_path):
    for name in ("summary.nc", "config.json", "history.csv"):
        (tmp_path / name).write_bytes((finished / name).read_bytes())
    works("report", tmp_path)
    assert "<html" in (tmp_path / "report.html").read_text()


@pytest.fixture
def tiny_benchmark(monkeypatch):
    entry = Entry("tiny", "real", "one", partial(pu.simulate_scene, K, (8, 7), n_bands=L, seed=1))
    monkeypatch.setattr(scenes, "SCENES", [entry])
    monkeypatch.setattr(methods, "METHODS", {})


def test_benchmark(tiny_benchmark, tmp_path):
    outcome = works("benchmark", "--scenes", "tiny", "--methods", "start", "--seeds", 2, "--out", tmp_path / "bench")
    assert {path.name for path in (tmp_path / "bench").iterdir()} == {"results.csv", "config.json", "table.md", "benchmark.png"}
    assert outcome.out.startswith("2 runs, 0 of them failed\n") and f"wrote {tmp_path / 'bench'}" in outcome.out


@pytest.mark.parametrize("arguments, message", [
    (["--scenes", "atlantis"], "'atlantis'"),
    (["--scenes", "fresh"], "--fresh"),
    (["--methods", "start, magic"], "'magic'"),
    (["--fresh", -1], "from 0 up"),
    (["--timeout", 0], "timeout"),
])
def test_benchmarks_that_cannot_be(tiny_benchmark, tmp_path, arguments, message):
    assert_refused(run("benchmark", *arguments, "--out", tmp_path / "bench"), message)
    assert not (tmp_path / "bench").exists()


def test_experiments(monkeypatch, tmp_path):
    entry = Entry("tiny", "simulated", "one", partial(pu.simulate_scene, K, (12, 24), n_bands=L, concentration=0.3, seed=1))
    monkeypatch.setattr(ablation, "SCENES", [entry])
    monkeypatch.setattr(contexts, "SCENES", [entry])
    few = ["--modes", "supervised", "--encoders", "mlp, cnn", "--heads", "auto", "--smoke"]
    assert works("ablation", *few, "--out", tmp_path / "a").out.startswith("2 runs, 0 of them failed\n")
    assert (tmp_path / "a" / "ablation.png").exists()
    assert works("experiment", "contexts", "--smoke", "--out", tmp_path / "b").out.startswith("5 runs, 0 of them failed\n")
    assert_refused(run("ablation", "--heads", "magic", "--out", tmp_path / "c"), "heads among auto, softmax, got 'magic'")
    assert not (tmp_path / "c").exists()


def test_datasets(monkeypatch, tmp_path):
    told = works("datasets", "list").out
    assert "samson" in told and "jasper" in told and "usgs_splib07" in told
    monkeypatch.setattr(cli.datasets, "fetch_dataset", lambda name: [tmp_path / f"{name}.mat"])
    assert works("datasets", "fetch", "samson").out == f"{tmp_path / 'samson.mat'}\n"


def test_demo_writes_everything(monkeypatch, tmp_path, folder):
    scene = pu.open_scene(folder / "scene.npz")
    short, fit_scene = pu.FitConfig(**SETTINGS), cli.fit_scene
    monkeypatch.setattr(cli.simulate, "example_scene", lambda: scene)
    monkeypatch.setattr(cli, "fit_scene", lambda *args, **options: fit_scene(*args, **{**options, "config": short}))
    outcome = works("demo", "--out", tmp_path / "demo")
    assert {path.name for path in (tmp_path / "demo").iterdir()} == FILES | {"scene.npz"}
    assert "abundance RMSE" in outcome.out and "report.html" in outcome.out
    figures = json.loads((tmp_path / "demo" / "config.json").read_text())["evaluation"]
    again = works("evaluate", tmp_path / "demo" / "summary.nc", tmp_path / "demo" / "scene.npz", "--json").out
    assert figures == json.loads(again)


def test_version_and_help():
    assert works("--version").out == f"pyro-unmix {version('pyro_unmix')}\n"
    told = works("--help").out
    for command in ("demo", "info", "fit", "predict", "evaluate", "simulate", "datasets", "benchmark", "ablation", "experiment",
                    "report"):
        assert command in told
    assert "--resume" in works("fit", "--help").out


# Bad input


def image_of(folder):
    return np.load(folder / "scene.npz")["image"]


def scene_without(folder, path, **arrays):
    np.savez(path, **{"image": image_of(folder), **arrays})


def dead_band(folder, path):
    image = image_of(folder).copy()
    image[..., 4] = np.nan
    np.savez(path, image=image)


def cut(source, path):
    path.write_bytes(source.read_bytes()[: source.stat().st_size // 2])


def cut_mat(folder, path):
    scipy.io.savemat(path.with_suffix(".whole.mat"), {"Y": image_of(folder)})
    cut(path.with_suffix(".whole.mat"), path)


SCENES = {
    "a missing file": ("gone.npz", lambda folder, path: None, "gone.npz', which does not exist"),
    "an unknown name": ("atlantis", lambda folder, path: None, "atlantis"),
    "a folder": ("folder.npz", lambda folder, path: path.mkdir(), "which is a folder"),
    "an unknown format": ("scene.docx", lambda folder, path: path.write_text("x"), "known format"),
    "wrong array names": ("a.npz", lambda folder, path: np.savez(path, cube=image_of(folder)), "'image'.*the arrays cube"),
    "no array": ("a.npz", lambda folder, path: np.savez(path), "'image'"),
    "a flat image": ("a.npz", lambda folder, path: np.savez(path, image=image_of(folder)[0]), r"3 dimensions.*\(11, 12\)"),
    "text for an image": ("a.npz", lambda folder, path: np.savez(path, image=np.full((3, 3, 3), "x")), "real numbers"),
    "a dead band": ("a.npz", dead_band, "finite value in every band.*band 4"),
    "an empty mask": ("a.npz", lambda f, p: scene_without(f, p, mask=np.zeros((12, 11), bool)), "at least one pixel to use"),
    "a mask of another size": ("a.npz", lambda f, p: scene_without(f, p, mask=np.ones((11, 12), bool)), "a mask of shape"),
    "too few wavelengths": ("a.npz", lambda f, p: scene_without(f, p, wavelengths=np.arange(1, 11)), "12 wavelengths.*got 10"),
    "a cut .npz": ("a.npz", lambda folder, path: cut(folder / "scene.npz", path), "cut short"),
    "a cut .mat": ("a.mat", cut_mat, "cut short"),
    "an empty file": ("a.npz", lambda folder, path: path.write_bytes(b""), "npz archive"),
    "a pickle": ("a.npz", lambda f, p: np.savez(p, image=np.array([{"a": 1}], dtype=object)), "not objects"),
}


@pytest.mark.parametrize("case", SCENES)
@pytest.mark.parametrize("command", ["info", "fit"])
def test_scenes_that_cannot_be_used(folder, tmp_path, case, command):
    name, make, message = SCENES[case]
    make(folder, tmp_path / name)
    path = tmp_path / name if "." in name else name
    more = ["-k", 3, "--out", tmp_path / "run"] if command == "fit" else []
    assert_refused(run(command, path, *more), message)
    assert not (tmp_path / "run").exists()  # and nothing is left behind


@pytest.mark.parametrize("more, message", [
    (["-k", 1], "at least 2 endmembers"),
    (["-k", 0], "at least 2 endmembers"),
    (["-k", -3], "at least 2 endmembers"),
    (["-k", "three"], "or 'auto', got 'three'"),
    (["-k", "auto", "--library", "library.npz"], "a number of endmembers with a --library"),
    (["-k", 13], "as bands"),
    (["--seed", -1], "seed"),
    (["--materials", "oak"], "--library"),
    (["--library", "nowhere.npz"], "nowhere.npz"),
    (["--library", "scene.npz"], "'spectra'"),
    (["--library", "library.npz"], "3 spectra of 12 bands"),
    (["--library", "library.npz", "--materials", "oak,beech"], "3 spectra of 12 bands"),
    (["--library", "library.npz", "--materials", "oak,beech,marble"], "called 'marble'"),
    (["--library", "library.npz", "--materials", "oak,oak,soil"], "differ"),
    (["--config", "nowhere.toml"], "nowhere.toml"),
    (["--config", "scene.npz"], "readable TOML"),
    (["--config", "broken.toml"], "readable TOML"),
    (["--config", "unknown.toml"], "settings among svi_steps.*got epochs"),
    (["--config", "wrong.toml"], "a number for svi_steps"),
    (["--config", "table.toml"], "got fit"),
], ids=lambda value: " ".join(map(str, value)) if isinstance(value, list) else "")
def test_fits_that_cannot_be(folder, options, tmp_path, no_report, more, message):
    (folder / "broken.toml").write_text("svi_steps = = 3\nx")
    (folder / "unknown.toml").write_text("epochs = 3")
    (folder / "wrong.toml").write_text("svi_steps = 'ten'")
    (folder / "table.toml").write_text("[fit]\nsvi_steps = 3")
    more = [folder / value if str(value).endswith((".toml", ".npz")) else value for value in more]
    assert_refused(run(*options, *more, "--out", tmp_path / "run"), message)


def test_a_device_that_is_not_there(options, tmp_path, monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert_refused(run(*options, "--device", "cuda", "--out", tmp_path / "run"), "CUDA")


def test_more_endmembers_than_the_scene_has_directions(tmp_path):
    rng = np.random.default_rng(0)
    np.savez(tmp_path / "flat.npz", image=rng.dirichlet([1, 1], (8, 8)) @ rng.uniform(0.1, 0.9, (2, L)))
    outcome = run("fit", tmp_path / "flat.npz", "-k", 4, "--out", tmp_path / "run")
    assert_refused(outcome, "at most 2 endmembers, the number of directions")


@pytest.mark.parametrize("command", ["fit", "predict", "simulate", "demo"])
def test_places_that_cannot_be_written_to(folder, options, finished, tmp_path, command):
    (tmp_path / "file").write_text("kept")
    outcome = run(*{
        "fit": [*options, "--out", tmp_path / "file"],
        "predict": ["predict", finished, folder / "scene.npz", "--out", tmp_path / "file" / "a.nc"],
        "simulate": ["simulate", "linear", "--out", tmp_path / "file" / "a.npz", "--rows", 4, "--cols", 4, "--bands", 40],
        "demo": ["demo", "--out", tmp_path / "file"],
    }[command])
    assert_refused(outcome, "writable")
    assert (tmp_path / "file").read_text() == "kept"


def test_an_output_that_is_a_folder(folder, finished, tmp_path):
    (tmp_path / "a.nc").mkdir()
    assert_refused(run("predict", finished, folder / "scene.npz", "--out", tmp_path / "a.nc"), "writable")
    assert list(tmp_path.iterdir()) == [tmp_path / "a.nc"]


def test_predictions_that_cannot_be(folder, finished, tmp_path):
    pu.save_scene(pu.simulate_scene(K, (5, 6), n_bands=20), tmp_path / "bands.npz")
    assert_refused(run("predict", finished, tmp_path / "bands.npz", "--out", tmp_path / "a.nc"), "the 12 bands")
    assert_refused(run("predict", tmp_path, folder / "scene.npz", "--out", tmp_path / "a.nc"), "without config.json")
    assert_refused(run("predict", finished, folder / "gone.npz", "--out", tmp_path / "a.nc"), "does not exist")
    assert_refused(run("predict", finished, folder / "scene.npz", "--out", tmp_path / "a.txt"), "a.txt")
    assert list(tmp_path.iterdir()) == [tmp_path / "bands.npz"]


def text(path):
    path.write_text("not NetCDF")


def other_netcdf(path):
    xr.Dataset({"temperature": ("time", np.arange(3.0))}).to_netcdf(path, engine="h5netcdf")


def maps_only(path):
    xr.Dataset({"abundance_mean": (("y", "x", "endmember"), np.full((12, 11, 3), 1 / 3))}).to_netcdf(path, engine="h5netcdf")


@pytest.mark.parametrize("make", [None, text, other_netcdf, maps_only])
def test_summaries_that_are_none(folder, tmp_path, make):
    if make:
        make(tmp_path / "a.nc")
    assert_refused(run("evaluate", tmp_path / "a.nc", folder / "scene.npz"), "summary")


def test_evaluations_that_cannot_be(folder, finished, tmp_path):
    summary = finished / "summary.nc"
    assert_refused(run("evaluate", finished / "draws.nc", folder / "scene.npz"), "summary")
    assert_refused(run("evaluate", finished, folder / "scene.npz"), "summary")
    assert_refused(run("evaluate", summary, folder / "library.npz"), "'abundances'")
    assert_refused(run("evaluate", summary, folder / "gone.npz"), "does not exist")
    assert_refused(run("evaluate", summary, folder / "scene.npz", "--variant", "alt"), "variant 'alt'")
    np.savez(tmp_path / "two.npz", abundances=np.full((12, 11, 2), 0.5))
    assert_refused(run("evaluate", summary, tmp_path / "two.npz"), "2 endmembers")
    np.savez(tmp_path / "size.npz", abundances=np.full((5, 6, 3), 1 / 3))
    assert_refused(run("evaluate", summary, tmp_path / "size.npz"), r"shape \(12, 11, k\)")


@pytest.mark.parametrize("arguments, message", [
    (["simulate", "magic", "--out", "a.npz"], "a recipe"),
    (["simulate", "ontech", "--out", "a.npz", "--variability", 0.5], "'ontech' takes"),
    (["simulate", "cuprite", "--out", "a.npz", "-k", 3], "'cuprite' takes"),
    (["simulate", "cuprite", "--out", "a.npz", "--minerals", "Alunite, Gold"], "Gold"),
    (["simulate", "linear", "--out", "a.npz", "--pure-share", 2], "pure_share"),
    (["simulate", "linear", "--out", "a.txt"], "ends in .npz"),
    (["simulate", "linear", "--out", "a.npz", "-k", 1], "n_endmembers"),
    (["simulate", "linear", "--out", "a.npz", "--seed", -1], "seed"),
    (["simulate", "linear", "--out", "a.npz", "--concentration", 0], "concentration"),
    (["datasets", "fetch", "atlantis"], "atlantis"),
    (["report", "."], "summary.nc"),
    (["report", "nowhere"], "summary.nc"),
], ids=lambda value: " ".join(map(str, value)) if isinstance(value, list) else "")
def test_other_commands_that_cannot_be(tmp_path, monkeypatch, arguments, message):
    monkeypatch.chdir(tmp_path)
    assert_refused(run(*arguments), message)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("arguments", [["fit"], ["fit", "a.npz", "-k", "three", "--out", "run"], ["dance"],
                                       ["fit", "a.npz", "-k", "3", "--out", "run", "--guide", "oracle"]])
def test_mistyped_commands(arguments):
    outcome = run(*arguments)
    assert outcome.code == 2 and outcome.out == "" and "Traceback" not in outcome.err and outcome.err


@pytest.mark.parametrize("name, said", [("gone.npz", "gone.npz', which does not exist"), ("cut.tif", "cut.tif")])
def test_the_installed_command_ends_with_the_code(tmp_path, name, said):
    """In a process of its own: exit code, one line, no traceback, through the entry point. Of a cut file GDAL tells more."""
    grid = {"crs": "EPSG:32633", "transform": rasterio.Affine(30, 0, 5e5, 0, -30, 5e6)}
    with rasterio.open(tmp_path / "whole.tif", "w", driver="GTiff", width=9, height=9, count=60, dtype="float32", **grid) as file:
        file.write(np.ones((60, 9, 9), np.float32))
    whole = (tmp_path / "whole.tif").read_bytes()
    (tmp_path / "cut.tif").write_bytes(whole[:600])
    code = "import sys; from pyro_unmix.cli import main; sys.argv[0] = 'pyro-unmix'; main()"
    done = subprocess.run([sys.executable, "-c", code, "info", tmp_path / name], capture_output=True, text=True)
    assert_refused(Outcome(done.returncode, done.stdout, done.stderr), said)
    # Of one that it can read too, and that is told: the scale of its pixels is said to lie beyond the end.
    scale = whole.index(struct.pack("<HHI", 33550, 12, 3)) + 8
    (tmp_path / "lost.tif").write_bytes(whole[:scale] + struct.pack("<I", 10**8) + whole[scale + 4 :])
    done = subprocess.run([sys.executable, "-c", code, "info", tmp_path / "lost.tif"], capture_output=True, text=True)
    assert done.returncode == 0 and "GeoPixelScale" in done.stderr and "Traceback" not in done.stderr
