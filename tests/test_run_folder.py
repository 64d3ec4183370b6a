"""A fit survives its folder: seeded draws are the same after loading, and damage is told in words."""

from __future__ import annotations

import json
import os

import numpy as np
import pandas as pd
import pyro.distributions as dist
import pytest
import torch
import xarray as xr
from torch import nn

import pyro_unmix as pu
from pyro_unmix import noise, priors, report
from pyro_unmix.initialize import informed_endmembers
from pyro_unmix.run_folder import save_fit

K, L = 3, 12
CONFIG = pu.FitConfig(svi_steps=6, calibration_steps=4, sampling_steps=40, tile_size=8, device="cpu")
FILES = {"summary.nc", "config.json", "weights.pt", "history.csv", "pixels.nc", "report.html"}


@pytest.fixture(scope="module")
def scene():
    made = pu.simulate_scene(K, (10, 9), n_bands=L, brightness=0.2, seed=3)
    mask = np.ones((10, 9), bool)
    mask[2, 5] = False
    return pu.Scene(made.reflectance, mask=mask, name="leaves", abundances=made.reference.abundances.values,
                    endmembers=made.reference.endmembers.values)


@pytest.fixture(scope="module")
def known(scene):
    return informed_endmembers(scene.reference.endmembers.values, scene, K)


def fitted(scene, known, *, guide="mlp", names=None, **parts):
    model = pu.UnmixingModel(K, **{"endmembers": known, **parts})
    return pu.fit(model, scene, guide=guide, config=CONFIG, seed=5, names=names, progress=False)


@pytest.fixture(scope="module")
def fit(scene, known):
    return fitted(scene, known, names=["oak", "beech", "soil"])


@pytest.fixture
def folder(fit, tmp_path):
    return save_fit(tmp_path / "run", fit)


def assert_same(loaded, fit, scene):
    one, other = loaded.posterior(scene), fit.posterior(scene)
    xr.testing.assert_equal(one.draws(7, seed=2), other.draws(7, seed=2))
    xr.testing.assert_equal(one.summary(), other.summary())
    states = [{**f.guide.state_dict(), **{f"model.{n}": v for n, v in f.model.state_dict().items()}} for f in (loaded, fit)]
    assert states[0].keys() == states[1].keys()
    for name, value in states[0].items():
        torch.testing.assert_close(value, states[1][name], rtol=0, atol=0, equal_nan=True, msg=name)


def test_a_run_is_the_files_of_the_contract(fit, scene, tmp_path, monkeypatch):
    monkeypatch.setattr(report, "write_report", lambda folder: (folder / "report.html").touch())  # drawn further down
    posterior = fit.posterior(scene)
    run = pu.save_run(tmp_path / "deep" / "run", fit, posterior)
    assert {path.name for path in run.iterdir()} == FILES
    with xr.open_dataset(run / "summary.nc", engine="h5netcdf") as summary:
        xr.testing.assert_equal(summary.load(), posterior.summary())
    with xr.open_dataset(run / "pixels.nc", engine="h5netcdf") as pixels:
        np.testing.assert_array_equal(pixels.reflectance, scene.reflectance)
    pu.save_run(run, fit, posterior, draws=4)  # over the old ones
    assert {path.name for path in run.iterdir()} == FILES | {"draws.nc"}
    with xr.open_dataset(run / "draws.nc", group="posterior", engine="h5netcdf") as draws:
        xr.testing.assert_equal(draws.isel(chain=0, drop=True).load(), posterior.draws(4, seed=fit.seed))


def test_config_is_plain_and_complete(fit, folder):
    text = (folder / "config.json").read_text()
    config = json.loads(text, parse_constant=lambda name: pytest.fail(f"{name} is no JSON"))
    assert config["seed"] == 5 and config["scene"] == "leaves" and config["names"] == ["oak", "beech", "soil"]
    assert config["n_endmembers"] == K and config["n_bands"] == L and config["calibrated"] and not config["interrupted"]
    assert config["guide"]["class"] == "PixelEncoder"
    assert config["head"]["class"] == type(fit.guide.head).__name__ == "SimplexNormalHead"
    assert config["model"]["brightness"]["class"] == "PixelBrightness"  # decided from the scene
    assert config["model"]["evidence"] == fit.model.evidence
    assert pu.FitConfig.from_dict(config["fit"]) == CONFIG
    assert set(config["seconds"]) == {"initialize", "svi", "sample", "calibrate"}


def test_weights_are_plain_tensors(folder):
    state = torch.load(folder / "weights.pt", weights_only=True)
    assert set(state) == {"model", "guide", "shared"}
    assert all(torch.is_tensor(value) or value is None for part in state.values() for value in part.values())


def test_draws_of_what_pixels_share_come_back(fit, scene, folder):
    """Refined from them, a loaded fit says the same; one saved without them loads too, and makes them anew."""
    loaded = pu.load_fit(folder)
    for part, twin in zip(vars(loaded.shared).values(), vars(fit.shared).values(), strict=True):
        assert part is twin is None or torch.equal(part, twin)
    one, other = (pu.refine(each, scene, shared_draws=4, draws=8, progress=False).draws(8) for each in (loaded, fit))
    xr.testing.assert_equal(one, other)  # but for the seconds, which are rounded in the folder
    state = torch.load(folder / "weights.pt", weights_only=True)
    del state["shared"]
    torch.save(state, folder / "weights.pt")
    assert pu.load_fit(folder).shared is None


def test_history_is_readable(fit, folder):
    pd.testing.assert_frame_equal(pd.read_csv(folder / "history.csv"), fit.history)


def test_everything_else_comes_back(fit, folder):
    loaded = pu.load_fit(folder)
    assert (loaded.names, loaded.seed, loaded.config, loaded.scene_name) == (fit.names, 5, CONFIG, "leaves")
    assert loaded.interrupted is False and loaded.calibrated
    np.testing.assert_array_equal(loaded.wavelengths, fit.wavelengths)
    pd.testing.assert_frame_equal(loaded.history, fit.history)
    assert loaded.seconds == {stage: round(seconds, 3) for stage, seconds in fit.seconds.items()}


@pytest.mark.parametrize("parts", [
    dict(guide="spacnn"),
    dict(guide=pu.UnmixingGuide(pu.ConvEncoder(width=5, depth=1, kernel=5), pu.DirichletHead(floor=0.5, max_precision=300.0))),
    dict(brightness="none"),
    dict(brightness=noise.PixelBrightness(0.3)),
    dict(abundances=priors.Dirichlet(0.3)),
    dict(abundances=priors.Dirichlet([0.5, 1.0, 2.0]), evidence=0.25),
    dict(noise=noise.DiagonalNoise(spread=0.5)),
    dict(noise=noise.DiagonalNoise(0.02)),
    dict(noise=noise.SmoothNoise(0.02, wavelengths=np.geomspace(400.0, 900.0, L))),
    dict(endmembers=None),
], ids=lambda parts: "+".join(parts))
def test_loaded_fit_draws_the_same(scene, known, tmp_path, parts):
    fit = fitted(scene, known, **parts)
    assert_same(pu.load_fit(save_fit(tmp_path, fit)), fit, scene)


@pytest.mark.parametrize("made", [
    noise.SmoothNoise(length_scale=60.0, share=0.7),
    noise.SmoothNoise(length_scale=60.0, wavelengths=np.geomspace(400.0, 900.0, L)),
    noise.LowRankNoise(loadings=np.linspace(-1.0, 1.0, 2 * L).reshape(2, L)),
    noise.LowRankNoise(np.linspace(0.01, 0.02, L), np.ones((1, L))),
], ids=["smooth", "smooth over wavelengths", "low rank", "low rank of known scale"])
def test_correlated_noise_comes_back(scene, known, tmp_path, made):
    model = pu.UnmixingModel(K, endmembers=known, noise=made)
    config = pu.FitConfig(svi_steps=3, calibration_steps=2, sampling_steps=40, tile_size=8, device="cpu")
    fit = pu.fit(model, scene, guide="mlp", config=config, seed=5, progress=False)
    loaded = pu.load_fit(save_fit(tmp_path, fit))
    kept, again = fit.model.noise, loaded.model.noise
    assert type(kept) is type(again) is type(made)
    assert again.settings == kept.settings == made.settings | {"floor": kept.settings["floor"]}
    scale = fit.guide.noise().mean.detach()
    covariances = [each.likelihood(torch.zeros(L), scale).covariance_matrix for each in (again, kept)]
    assert fit.guide.noise.correlation is not None and fit.shared.noise_correlation is not None
    assert torch.equal(*covariances) and not torch.equal(covariances[0], covariances[0].diagonal().diag())
    for name, value in made.state_dict().items():
        assert name == "scale" or torch.equal(again.state_dict()[name].nan_to_num(-1), value.nan_to_num(-1)), name
    assert_same(loaded, fit, scene)


def test_loaded_fit_can_be_saved_again(fit, scene, folder, tmp_path):
    again = save_fit(tmp_path / "again", pu.load_fit(folder))
    assert (again / "config.json").read_text() == (folder / "config.json").read_text()
    assert_same(pu.load_fit(again), fit, scene)


def test_scene_without_wavelengths(scene, known, tmp_path):
    bare = pu.Scene(scene.reflectance.values, mask=scene.mask.values)
    fit = fitted(bare, known)
    loaded = pu.load_fit(save_fit(tmp_path, fit))
    assert loaded.wavelengths is None
    assert_same(loaded, fit, bare)


class Doubled(nn.Module):
    """Somebody's mixing, with a number of its own."""

    def __init__(self, factor=2.0):
        super().__init__()
        self.register_buffer("factor", torch.tensor(factor))

    def forward(self, abundances, endmembers):
        return self.factor * (abundances @ endmembers)


class Own(pu.PixelEncoder):
    """Somebody's encoder."""


def two(k):
    return dist.Dirichlet(torch.full((k,), 2.0))


def smooth(k, n_bands):
    return dist.Normal(torch.full((k, n_bands), 0.5), 0.2).to_event(2)


@pytest.mark.parametrize("parts", [
    dict(abundances=two),
    dict(abundances=two, brightness="none"),
    dict(abundances=dist.Dirichlet(torch.ones(K)), noise=noise.DiagonalNoise(spread=0.5)),
    dict(mixing=Doubled(), brightness=noise.PixelBrightness()),
    dict(endmembers=smooth),
], ids=lambda parts: "+".join(parts))
def test_parts_of_the_users_own_are_asked_for(scene, known, tmp_path, parts):
    parts = {"endmembers": known, **parts}
    model = pu.UnmixingModel(K, **parts)
    fit = fitted(scene, known, **parts)
    save_fit(tmp_path, fit)
    with pytest.raises(pu.InputError, match="load_fit.folder, model"):
        pu.load_fit(tmp_path)
    before = {name: value.clone() for name, value in model.state_dict().items()}
    assert_same(pu.load_fit(tmp_path, model=model), fit, scene)
    for name, value in model.state_dict().items():  # and the model given is left as it is
        assert torch.equal(value.nan_to_num(-1), before[name].nan_to_num(-1)), name


def test_loading_does_not_write_into_the_users_parts(scene, known, tmp_path):
    mixing = Doubled(2.0)
    fit = fitted(scene, known, mixing=mixing)
    save_fit(tmp_path, fit)
    given = pu.UnmixingModel(K, mixing=Doubled(3.0))
    loaded = pu.load_fit(tmp_path, model=given)
    assert loaded.model.mixing.factor == 2.0 and given.mixing.factor == 3.0


def test_encoder_of_the_users_own_is_asked_for(scene, known, tmp_path):
    guide = pu.UnmixingGuide(Own(width=8))
    fit = fitted(scene, known, guide=guide)
    save_fit(tmp_path, fit)
    with pytest.raises(pu.InputError, match="load_fit.folder, model.*guide"):
        pu.load_fit(tmp_path)
    assert_same(pu.load_fit(tmp_path, guide=guide), fit, scene)
    assert not list(guide.parameters())


def test_interruption_is_remembered(fit, tmp_path):
    fit = pu.Fit(**{**vars(fit), "interrupted": True, "calibrated": False})
    loaded = pu.load_fit(save_fit(tmp_path, fit))
    assert loaded.interrupted and not loaded.calibrated


def test_evaluation_is_kept_and_shown(fit, scene, tmp_path):
    posterior = fit.posterior(scene)
    evaluation = pu.evaluate(posterior.summary(), scene.reference)
    pu.save_run(tmp_path, fit, posterior, evaluation=evaluation)
    assert json.loads((tmp_path / "config.json").read_text())["evaluation"] == evaluation.to_dict()
    assert f"{evaluation.rmse:.4f}" in (tmp_path / "report.html").read_text()


@pytest.mark.parametrize("name", ["config.json", "weights.pt", "history.csv"])
def test_missing_files_are_named(folder, name):
    (folder / name).unlink()
    with pytest.raises(pu.InputError, match=f"without {name}"):
        pu.load_fit(folder)


def test_no_folder_at_all(tmp_path):
    with pytest.raises(pu.InputError, match="pyro-unmix fit"):
        pu.load_fit(tmp_path / "nowhere")


@pytest.mark.parametrize("name, content", [
    ("weights.pt", b""), ("weights.pt", b"not weights"), ("weights.pt", None),  # None: cut short
    ("config.json", b"{"), ("config.json", b"\xff\xfe"), ("history.csv", b""),
])
def test_damaged_files_are_named(folder, name, content):
    path = folder / name
    path.write_bytes(path.read_bytes()[:700] if content is None else content)
    with pytest.raises(pu.InputError, match=name):
        pu.load_fit(folder)


@pytest.mark.parametrize("change", [
    lambda config: config.clear(),
    lambda config: config.pop("n_components"),
    lambda config: config.update(n_bands=11),
    lambda config: config["guide"].update(width=8),
    lambda config: config["guide"].update(depth="deep"),
    lambda config: config["guide"].update(colour="red"),
    lambda config: config["head"].update({"class": "OfTomorrow"}),
    lambda config: config["model"].update(mixing={"class": "Tensor"}),
    lambda config: config["fit"].update(epochs=3),
    lambda config: config.update(fit=None),
    lambda config: config.update(model=3),
    lambda config: config.update(names=["oak", "soil", "\ud800"]),
    lambda config: config.update(guide=["PixelEncoder"]),
    lambda config: config.update(n_endmembers=10**7),
    lambda config: config["guide"].update(width=10_000),
    lambda config: config["guide"].update(depth=10**6),
], ids=range(16))
def test_a_config_that_does_not_fit_is_refused(folder, change):
    config = json.loads((folder / "config.json").read_text())
    change(config)
    (folder / "config.json").write_text(json.dumps(config))
    with pytest.raises(pu.InputError):
        pu.load_fit(folder)


class Payload:
    def __init__(self, mark):
        self.mark = mark

    def __reduce__(self):
        return os.mkdir, (str(self.mark),)


def test_nothing_in_a_run_folder_is_unpickled(folder, tmp_path):
    mark = tmp_path / "mark"
    torch.save({"model": {}, "guide": {}, "shared": Payload(mark)}, folder / "weights.pt")
    with pytest.raises(pu.InputError, match="a readable weights.pt"):
        pu.load_fit(folder)
    assert not mark.exists()


def test_weights_of_something_else_are_refused(folder):
    torch.save({"model": {}, "guide": {}}, folder / "weights.pt")
    with pytest.raises(pu.InputError, match="weights"):
        pu.load_fit(folder)
    torch.save([1, 2], folder / "weights.pt")
    with pytest.raises(pu.InputError, match="weights"):
        pu.load_fit(folder)


def test_a_place_that_cannot_be_written_to(fit, scene, tmp_path):
    (tmp_path / "run").write_text("a file")
    with pytest.raises(pu.InputError, match="writable"):
        pu.save_run(tmp_path / "run", fit, fit.posterior(scene))
    assert (tmp_path / "run").read_text() == "a file"
