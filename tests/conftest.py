"""Every test starts from the same random numbers and leaves the session as it found it."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path

import matplotlib
import matplotlib.pyplot as plt
import numpy as np
import pyro
import pytest
import torch
from hypothesis import settings
from short_fits import K, L, quiet_fit

from pyro_unmix.initialize import informed_endmembers
from pyro_unmix.model import UnmixingModel
from pyro_unmix.scene import Scene
from pyro_unmix.simulate import simulate_scene

matplotlib.use("Agg")
settings.register_profile("suite", max_examples=20, deadline=None, derandomize=True)
settings.load_profile("suite")


def flushes_denormals() -> bool:
    return torch.full((), 1e-300, dtype=torch.float64, device="cpu").mul(1e-20).item() == 0.0


def session_state() -> dict[str, object]:
    """What one test could change for all those after it."""
    return {
        "Pyro's parameter store": {name: id(value) for name, value in pyro.get_param_store().named_parameters()},
        "Pyro's settings": pyro.settings.get(),
        "torch's default dtype": torch.get_default_dtype(),
        "torch's default device": torch.get_default_device(),
        "torch's number of threads": torch.get_num_threads(),
        "torch's gradient mode": torch.is_grad_enabled(),
        "torch's deterministic mode": torch.are_deterministic_algorithms_enabled(),
        "flushing of denormals": flushes_denormals(),
        "numpy's handling of floating-point errors": np.geterr(),
        "the working directory": os.getcwd(),
    }


def put_back(state: dict) -> None:
    """So that one careless test fails, not all after it."""
    pyro.get_param_store().clear()
    pyro.settings.set(**state["Pyro's settings"])
    torch.set_default_dtype(state["torch's default dtype"])
    torch.set_default_device(state["torch's default device"])
    torch.set_num_threads(state["torch's number of threads"])
    torch.set_grad_enabled(state["torch's gradient mode"])
    torch.use_deterministic_algorithms(state["torch's deterministic mode"])
    torch.set_flush_denormal(state["flushing of denormals"])
    np.seterr(**state["numpy's handling of floating-point errors"])
    os.chdir(state["the working directory"])


@contextmanager
def isolated() -> Iterator[None]:
    """Random numbers from one seed; fails where the session is left changed."""
    pyro.set_rng_seed(0)
    before = session_state()
    yield
    after = session_state()
    if changed := [what for what in before if before[what] != after[what]]:
        put_back(before)
        pytest.fail(f"the test left changed: {', '.join(changed)}", pytrace=False)


@pytest.fixture(autouse=True)
def isolation() -> Iterator[None]:
    with isolated():
        yield
    plt.close("all")


@pytest.fixture(scope="session")
def small_scene() -> Scene:
    """16 x 16 pixels, 30 bands, three materials, 30 dB, with its truth. Not to be changed."""
    return simulate_scene(3, (16, 16), n_bands=30, snr_db=30.0, concentration=0.5, correlation_length=2.0, seed=3)


@pytest.fixture(scope="session")
def real_data() -> Path:
    """The folder of real scenes."""
    folder = os.environ.get("PYRO_UNMIX_DATA")
    if not folder:
        pytest.skip("PYRO_UNMIX_DATA is not set")
    return Path(folder)


@pytest.fixture(scope="session")
def holed_scene():
    """20 x 14 pixels, 12 bands, three endmembers, with a hole: tiles of 8 come out uneven."""
    made = simulate_scene(3, (20, 14), n_bands=12, brightness=0.2, seed=3)
    mask = np.ones((20, 14), bool)
    mask[3:9, 5:8] = False
    return Scene(made.reflectance, mask=mask, endmembers=made.reference.endmembers.values)


@pytest.fixture(scope="session")
def fit_scene():
    """Of short fits: 12 x 14 pixels, brightness varies. Not to be changed."""
    return simulate_scene(K, (12, 14), n_bands=L, brightness=0.2, seed=3)


@pytest.fixture(scope="session")
def fit_model(fit_scene):
    """With a prior of the endmembers around the truth: saves the search for them. Everything else is open."""
    return UnmixingModel(K, endmembers=informed_endmembers(fit_scene.reference.endmembers.values, fit_scene, K))


@pytest.fixture(scope="session")
def fit_of(fit_scene, fit_model):
    return partial(quiet_fit, fit_model, fit_scene)


@pytest.fixture(scope="session")
def plain_fit(fit_of):
    """One fit that nothing disturbed. Not to be changed."""
    return fit_of()
