"""The scenes of the benchmark: public ones, and simulated ones whose seeds are stated here."""

from __future__ import annotations

import logging
from dataclasses import dataclass
from functools import partial
from itertools import product

import numpy as np

from pyro_unmix.datasets import load_dataset
from pyro_unmix.errors import InputError
from pyro_unmix.scene import Scene
from pyro_unmix.simulate import simulate_scene

log = logging.getLogger("pyro_unmix")

_NOISE_SEED = 0
_MAX_ABUNDANCE = 0.8  # of a scene without pure pixels


@dataclass(frozen=True)
class Entry:
    """A scene by name. `kind`: real, simulated or fresh; scenes of one `group` stand side by side in a table. `make` gives the
    same scene at every call."""

    name: str
    kind: str
    group: str
    make: partial[Scene]

    @property
    def recipe(self) -> str:
        """The call that makes the scene, as one would write it."""
        arguments = [*map(repr, self.make.args), *(f"{name}={value!r}" for name, value in self.make.keywords.items())]
        return f"{self.make.func.__name__}({', '.join(arguments)})"


def with_noise(dataset: str, snr_db: float) -> Scene:
    """A public scene without noise, and white Gaussian noise added, defined as in `simulate_scene`."""
    clean = load_dataset(dataset)
    signal = clean.reflectance.values.astype(np.float64)
    noise_sd = np.sqrt(np.mean(signal**2) / 10 ** (snr_db / 10))
    clean.reflectance = clean.reflectance.copy(
        data=(signal + noise_sd * np.random.default_rng(_NOISE_SEED).standard_normal(signal.shape)).astype(np.float32))
    return clean


def simulated(kind: str = "simulated", first_seed: int = 0) -> list[Entry]:
    """Brightness x purity x number of endmembers K: 64 x 64 pixels, 100 bands, 30 dB, concentration 1 / K, seed `first_seed` + K.

    Scenes of one K share their spectra, so that two of them differ in the one property. The concentration keeps pure pixels of
    every endmember where K is large.
    """
    prefix = "fresh_" if kind == "fresh" else ""
    entries = []
    for (purity, limit), (light, brightness), k in product(
            (("pure", 1.0), ("mixed", _MAX_ABUNDANCE)), (("", 0.0), ("_bright", 0.25)), (3, 5, 7, 9)):
        group = "with pure pixels" if purity == "pure" else f"no pixel above {100 * _MAX_ABUNDANCE:.0f} %"
        make = partial(simulate_scene, k, (64, 64), n_bands=100, snr_db=30.0, concentration=1.0 / k, max_abundance=limit,
                       brightness=brightness, seed=first_seed + k)
        entries.append(Entry(f"{prefix}{purity}{light}_k{k}", kind, group + (", brightness varies" if light else ""), make))
    return entries


SCENES: list[Entry] = [
    *(Entry(name, "real", "public scenes", partial(load_dataset, dataset, variant=variant)) for name, dataset, variant in (
        ("samson", "samson", ""),
        ("samson_alt", "samson", "alt"),
        ("jasper_ridge", "jasper_ridge", ""),
        ("urban_crop_4", "urban_crop", "4"),
        ("urban_crop_6", "urban_crop", ""),
        ("muufl_crop", "muufl_crop", ""),
    )),
    *(Entry(f"{dataset}_{snr_db}db", "simulated", "public, with white noise", partial(with_noise, dataset, snr_db))
      for dataset, snr_db in product(("sim1", "dc1"), (20, 30, 40))),
    *simulated(),
]


def choose(names: list[str] | None = None, fresh: int | None = None) -> list[Entry]:
    """The entries called `names` (or of a kind of that name), in the order of the list; None: all.

    `fresh` adds simulated scenes that nobody has seen: seeds from 1000 (`fresh` + 1) on.

    Raises
    ------
    InputError
        No such scene, or a negative `fresh`.
    """
    if fresh is not None and fresh < 0:
        raise InputError("a seed of fresh scenes from 0 up", f"{fresh}")
    entries = SCENES + ([] if fresh is None else simulated("fresh", 1000 * (fresh + 1)))
    if names is None:
        return entries
    known = dict.fromkeys([*(entry.kind for entry in entries), *(entry.name for entry in entries)])
    if unknown := [name for name in names if name not in known]:
        raise InputError(f"scenes among {', '.join(known)}", ", ".join(map(repr, unknown)),
                         "fresh scenes need a seed of their own (--fresh)" if fresh is None else "")
    return [entry for entry in entries if entry.name in names or entry.kind in names]


def available(entries: list[Entry], named: set[str]) -> list[tuple[Entry, Scene]]:
    """Entries with their scenes; those without data are left out with a line that says so.

    Raises
    ------
    InputError
        One of those `named` has no data, or none has.
    """
    found = []
    for entry in entries:
        try:
            found.append((entry, entry.make()))
        except InputError as error:
            if entry.name in named:
                raise
            log.info("left out %s: %s", entry.name, error)
    if not found:
        raise InputError("at least one scene with data", "none")
    return found


def count_of(scene: Scene) -> int:
    """Number of endmembers of the reference, which every scene here has."""
    assert scene.reference is not None
    return scene.reference.sizes["endmember"]


def about(entry: Entry, scene: Scene) -> dict:
    """What a configuration says of a scene."""
    return {"kind": entry.kind, "rows, columns, bands": list(scene.shape), "pixels": scene.n_pixels,
            "endmembers": count_of(scene), "made by": entry.recipe}
