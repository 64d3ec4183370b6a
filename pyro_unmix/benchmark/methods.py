"""The methods of the benchmark, all called in one way."""

from __future__ import annotations

import numpy as np
import xarray as xr

from pyro_unmix.baselines.estimate import Estimate
from pyro_unmix.baselines.methods import METHODS
from pyro_unmix.errors import InputError
from pyro_unmix.fit import fit
from pyro_unmix.initialize import initialize
from pyro_unmix.model import UnmixingModel
from pyro_unmix.scene import Scene

# Ours, and where its training begins; all others are baselines.
START, OURS = "start", "pyro_unmix"
L2 = "/l2"
PREPROCESSING = {
    "NAME": "pixels as they are, in the unit of the scene",
    f"NAME{L2}": "each pixel divided by its L2 norm, then as NAME; its endmembers are in that unit",
    f"{START}, {OURS}": "pixels as they are; what the method divides by, it divides by itself",
}


def method_names() -> list[str]:
    """Every baseline on pixels as they are and on pixels divided by their norm, then the start, then ours."""
    return [name + suffix for name in METHODS for suffix in ("", L2)] + [START, OURS]


def choose(names: list[str] | None = None) -> list[str]:
    """Those of the methods that are called `names`, in their own order; None: all. InputError: no such method."""
    known = method_names()
    if unknown := [name for name in names or [] if name not in known]:
        raise InputError(f"methods among {', '.join(known)}", ", ".join(map(repr, unknown)))
    return [name for name in known if names is None or name in names]


def unmix(method: str, scene: Scene, n_endmembers: int, seed: int) -> xr.Dataset:
    """The summary that `evaluate` takes, of one method; only `OURS` has intervals in it."""
    if method == OURS:
        return fit(UnmixingModel(n_endmembers), scene, seed=seed, progress=False).posterior(scene).summary()
    if method == START:
        _, start = initialize(UnmixingModel(n_endmembers), scene, seed=seed)
        return Estimate(start.endmembers.numpy(), start.abundances.numpy()).summary(scene)
    if method.endswith(L2):
        scene = divided_by_norm(scene)
    return METHODS[method.removesuffix(L2)](scene, n_endmembers, seed=seed).summary(scene)


def divided_by_norm(scene: Scene) -> Scene:
    """Every pixel of L2 norm 1, without the reference."""
    values = scene.reflectance.values
    norm = np.linalg.norm(values.astype(np.float64), axis=-1, keepdims=True)
    shapes = scene.reflectance.copy(data=(values / np.maximum(norm, 1e-12)).astype(np.float32))
    return Scene(shapes, mask=scene.mask.values, name=scene.name)


def without_reference(scene: Scene) -> Scene:
    """What a method may see."""
    return Scene(scene.reflectance, mask=scene.mask.values, name=scene.name)
