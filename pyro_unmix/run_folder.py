"""The folder a fit leaves behind: everything to read its result, and to go on with it."""

from __future__ import annotations

import copy
import io
import json
import os
from collections.abc import Callable
from dataclasses import asdict
from functools import partial
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
from torch import Tensor

from pyro_unmix.components import describe, restore
from pyro_unmix.denoise import FieldMeans, NonLocalMeans
from pyro_unmix.errors import InputError
from pyro_unmix.fit import Fit, FitConfig, endmember_names
from pyro_unmix.guide import UnmixingGuide
from pyro_unmix.io import SceneFile
from pyro_unmix.io.files import atomic_path, make_folder
from pyro_unmix.metrics import Evaluation
from pyro_unmix.model import UnmixingModel
from pyro_unmix.posterior import Posterior
from pyro_unmix.predict import predict
from pyro_unmix.priors import MVNEndmembers
from pyro_unmix.refine.shared import Shared
from pyro_unmix.simulator_check import Simulated

_PARTS = ("abundances", "endmembers", "mixing", "brightness", "noise", "variability")


def save_fit(folder: str | os.PathLike, fit: Fit, *, evaluation: Evaluation | None = None) -> Path:
    """Write `config.json`, `weights.pt` and `history.csv`, each whole or not at all."""
    folder = make_folder(folder)
    model, guide = fit.model, fit.guide
    config = {
        "program": "pyro_unmix",
        "version": version("pyro_unmix"),
        "seed": fit.seed,
        "scene": fit.scene_name,
        "scene_digest": fit.scene_digest,
        "n_endmembers": model.n_endmembers,
        "n_bands": guide.endmembers.mean.shape[1],
        "n_components": len(guide.input.components),
        "names": fit.names,
        "wavelengths": None if fit.wavelengths is None else fit.wavelengths.tolist(),
        "guide": describe(guide.encoder),
        "head": describe(guide.head),
        "model": {part: describe(getattr(model, part)) for part in _PARTS} | {"evidence": model.evidence},
        "fit": asdict(fit.config),
        "seconds": {stage: round(seconds, 3) for stage, seconds in fit.seconds.items()},
        "calibrated": fit.calibrated,
        "interrupted": fit.interrupted,
    }
    if evaluation is not None:
        config["evaluation"] = evaluation.to_dict()
    state = io.BytesIO()  # what a disk says is lost in what torch says
    torch.save({"model": model.state_dict(), "guide": guide.state_dict(),
                "shared": None if fit.shared is None else vars(fit.shared),
                **({} if fit.simulated is None else {"simulated": vars(fit.simulated)})}, state)
    with atomic_path(folder / "weights.pt") as path:
        path.write_bytes(state.getbuffer())
    with atomic_path(folder / "history.csv") as path:
        fit.history.to_csv(path, index=False)
    with atomic_path(folder / "config.json") as path:
        path.write_text(json.dumps(config, indent=2) + "\n")
    return folder


def save_run(folder: str | os.PathLike, fit: Fit, posterior: Posterior | SceneFile, *, draws: int = 0,
             evaluation: Evaluation | None = None, resume: bool = False) -> Path:
    """Write the whole run folder: the fit, `summary.nc`, `report.html` and, with `draws`, `draws.nc` for ArviZ.

    `pixels.nc` has the observed spectra of some pixels, for the report. That shows an `evaluation` against a known truth too, if
    one is given. In place of a posterior stands a scene that is larger than memory, in its file: it is unmixed strip by strip,
    as by `predict`, and has no draws. `resume` is as there.

    Raises
    ------
    InputError
        The folder cannot be written to, or draws of a scene in its file.
    """
    from pyro_unmix.report import save_pixels, write_report  # plots take long to import, and a fit is often only loaded

    if isinstance(posterior, SceneFile) and draws:
        raise InputError("a scene that is held in memory, to keep draws of", f"'{posterior.path.name}', which is read in parts",
                         "draw from a part of it: fit.posterior(file.scene(slice(0, 100))).draws()")
    folder = save_fit(folder, fit, evaluation=evaluation)
    if isinstance(posterior, SceneFile):
        predict(fit, posterior, folder / "summary.nc", resume=resume)
        save_pixels(folder, posterior, fit.model)
    else:
        posterior.save(folder / "summary.nc")
        save_pixels(folder, posterior.scene, fit.model)
        if draws:
            _save_draws(folder, posterior, draws, fit.seed)
    write_report(folder)
    return folder


def _save_draws(folder: Path, posterior: Posterior, draws: int, seed: int) -> None:
    groups = "posterior", "observed_data"
    drawn = posterior.to_arviz(draws, seed=seed, groups=groups)
    with atomic_path(folder / "draws.nc", room=sum(drawn[group].nbytes for group in groups)) as path:
        drawn.to_netcdf(path, engine="h5netcdf")


def load_fit(folder: str | os.PathLike, *, model: UnmixingModel | None = None, guide: UnmixingGuide | None = None) -> Fit:
    """Read a fit back from its folder.

    Parameters
    ----------
    folder
        Of `save_fit`, `save_run` or `pyro-unmix fit`.
    model, guide
        The ones that were fitted; needed only where a part of them is the user's own.

    Raises
    ------
    InputError
        Not a run folder, a damaged file, or a part that cannot be made without help.
    """
    folder = Path(folder)
    if missing := [name for name in ("config.json", "weights.pt", "history.csv") if not (folder / name).is_file()]:
        raise InputError("a folder written by 'pyro-unmix fit'", f"'{folder}' without {', '.join(missing)}")
    config = _read(folder / "config.json", _read_config)
    state = _read(folder / "weights.pt", partial(torch.load, weights_only=True, map_location="cpu"))
    history = _read(folder / "history.csv", pd.read_csv)
    try:
        endmember_names(config["names"], config["n_endmembers"])  # before anything of that size is made
        model = _restore_model(config, state["model"], model)
        if guide is None or not hasattr(guide, "head"):  # a head left open was chosen when the scene was seen
            guide = UnmixingGuide(restore(config["guide"]) if guide is None else guide.encoder, restore(config["head"]))
        denoisers = {"denoise.kernel": FieldMeans, "denoise.mean": NonLocalMeans}
        denoise = next((kind for name, kind in denoisers.items() if name in state["guide"]), None)
        with torch.device("meta"):  # sizes alone: no memory is taken before they are known to be those of the weights
            guide = guide.build(config["n_endmembers"], config["n_bands"], config["n_components"],
                                brightness=model.brightness is not None, denoise=denoise,
                                correlated="noise.correlation" in state["guide"],
                                heavy="noise.degrees_of_freedom" in state["guide"], mixing=model.mixing)
        guide.load_state_dict(state["guide"], assign=True)
        return Fit(
            model=model,
            guide=guide,
            names=config["names"],
            wavelengths=None if config["wavelengths"] is None else np.asarray(config["wavelengths"]),
            config=FitConfig.from_dict(config["fit"]),
            seed=config["seed"],
            scene_name=config["scene"],
            scene_digest=config.get("scene_digest", ""),
            history=history,
            seconds=config["seconds"],
            calibrated=config["calibrated"],
            interrupted=config["interrupted"],
            shared=Shared(**state["shared"]) if state.get("shared") else None,
            simulated=Simulated(**state["simulated"]) if state.get("simulated") else None,
        )
    except InputError:
        raise
    except Exception as error:  # a name that is missing, a value or a shape that does not fit
        raise InputError("a config.json and a weights.pt of one fit", f"'{folder}', where they do not belong together",
                         "restore both files, or fit again") from error


def _read_config(path: Path) -> dict:
    config = json.loads(path.read_text())
    json.dumps(config, ensure_ascii=False).encode()  # JSON can spell half a character, which no file can be written with
    return config


def _read(path: Path, reader: Callable[[Path], Any]) -> Any:
    try:
        return reader(path)
    except Exception as error:  # damaged bytes lead a reader anywhere
        raise InputError(f"a readable {path.name}", f"a damaged one in '{path.parent}'", "restore it, or fit again") from error


def _restore_model(config: dict, arrays: dict[str, Tensor], given: UnmixingModel | None) -> UnmixingModel:
    """The filled model: custom parts copied from the one `given`, all others made anew, then the arrays of all of them."""

    def part(name: str) -> Any:
        description = config["model"].get(name)
        if given is not None and "custom" in (description or {}):
            return copy.deepcopy(getattr(given, name))
        if description == {"class": MVNEndmembers.__name__}:
            return MVNEndmembers(arrays["endmembers.mean"], arrays["endmembers.scale_tril"])
        return restore(description)

    parts = {name: part(name) for name in _PARTS}
    model = UnmixingModel(config["n_endmembers"], **parts, evidence=config["model"]["evidence"])
    # Settings do not know the shapes of the arrays, which the scene or the user decided.
    for part_name in ("noise", "variability"):
        module = getattr(model, part_name)
        for name in {} if module is None else dict(module.named_buffers(recurse=False)):
            if f"{part_name}.{name}" in arrays:
                setattr(module, name, arrays[f"{part_name}.{name}"])
    model.load_state_dict(arrays)
    return model
