"""The folder a fit leaves behind: everything to read its result, and to go on with it."""

from __future__ import annotations

import json
import os
from dataclasses import asdict
from importlib.metadata import version
from pathlib import Path
from zipfile import BadZipFile

import numpy as np
import pandas as pd
import torch

from pyro_unmix.components import describe, restore
from pyro_unmix.errors import InputError
from pyro_unmix.fit import Fit, FitConfig
from pyro_unmix.guide import UnmixingGuide
from pyro_unmix.io.files import atomic_path, make_folder
from pyro_unmix.metrics import Evaluation
from pyro_unmix.model import UnmixingModel
from pyro_unmix.posterior import Posterior
from pyro_unmix.priors import MVNEndmembers
from pyro_unmix.report import write_report

_PARTS = ("abundances", "mixing", "brightness", "noise")


def save_fit(folder: str | os.PathLike, fit: Fit, *, evaluation: Evaluation | None = None) -> Path:
    """Write `config.json`, `weights.pt` and `history.csv`, each whole or not at all."""
    folder = make_folder(folder)
    model, guide = fit.model, fit.guide
    config = {
        "program": "pyro_unmix",
        "version": version("pyro_unmix"),
        "seed": fit.seed,
        "scene": fit.scene_name,
        "n_endmembers": model.n_endmembers,
        "n_bands": guide.endmembers.mean.shape[1],
        "n_components": len(guide.input.components),
        "names": fit.names,
        "wavelengths": None if fit.wavelengths is None else fit.wavelengths.tolist(),
        "guide": describe(guide.encoder),
        "head": describe(guide.head),
        "model": {part: describe(getattr(model, part)) for part in _PARTS} | {
            "endmembers": describe(model.endmembers), "evidence": model.evidence},
        "fit": asdict(fit.config),
        "seconds": {stage: round(seconds, 3) for stage, seconds in fit.seconds.items()},
        "calibrated": fit.calibrated,
        "interrupted": fit.interrupted,
    }
    if evaluation is not None:
        config["evaluation"] = evaluation.to_dict()
    with atomic_path(folder / "weights.pt") as path:
        torch.save({"model": model.state_dict(), "guide": guide.state_dict()}, path)
    with atomic_path(folder / "history.csv") as path:
        fit.history.to_csv(path, index=False)
    with atomic_path(folder / "config.json") as path:
        path.write_text(json.dumps(config, indent=2) + "\n")
    return folder


def save_run(folder: str | os.PathLike, fit: Fit, posterior: Posterior, *, draws: int = 0,
             evaluation: Evaluation | None = None) -> Path:
    """Write the whole run folder: the fit, `summary.nc`, `report.html` and, with `draws`, `draws.nc` for ArviZ.

    An `evaluation` against a known truth, if given, is shown in the report.

    Raises
    ------
    InputError
        The folder cannot be written to.
    """
    folder = save_fit(folder, fit, evaluation=evaluation)
    posterior.save(folder / "summary.nc")
    if draws:
        with atomic_path(folder / "draws.nc") as path:
            posterior.to_arviz(draws, seed=fit.seed).to_netcdf(path)
    write_report(folder)
    return folder


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
    try:
        config = json.loads((folder / "config.json").read_text())
        state = torch.load(folder / "weights.pt", weights_only=True, map_location="cpu")
        history = pd.read_csv(folder / "history.csv")
    except (ValueError, RuntimeError, OSError, EOFError, BadZipFile) as error:
        raise InputError("a readable run folder", f"'{folder}': {str(error).splitlines()[0]}", "fit again") from error

    k, n_bands = config["n_endmembers"], config["n_bands"]
    if model is None:
        parts = {part: restore(config["model"][part]) for part in _PARTS}
        brightness = parts.pop("brightness")
        model = UnmixingModel(k, **parts, brightness="none" if brightness is None else brightness)
    arrays = state["model"]
    if model.endmembers is None:
        model = model.replace(endmembers=MVNEndmembers(arrays["endmembers.mean"], arrays["endmembers.scale_tril"]))
    model = model.replace(evidence=config["model"]["evidence"])
    if "noise.scale" in arrays:
        model.noise.scale = arrays["noise.scale"]
    model.load_state_dict(arrays)

    guide = guide or UnmixingGuide(restore(config["guide"]), restore(config["head"]))
    guide = guide.bind(k, n_bands, config["n_components"], model.brightness is not None)
    guide.load_state_dict(state["guide"])
    return Fit(
        model=model,
        guide=guide,
        names=config["names"],
        wavelengths=None if config["wavelengths"] is None else np.asarray(config["wavelengths"]),
        config=FitConfig.from_dict(config["fit"]),
        seed=config["seed"],
        scene_name=config["scene"],
        history=history,
        seconds=config["seconds"],
        interrupted=config["interrupted"],
    )
