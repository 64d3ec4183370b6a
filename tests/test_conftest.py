"""The check that a test leaves the session as it found it can fail."""

from __future__ import annotations

import numpy as np
import pyro
import pytest
import torch
from conftest import flushes_denormals, isolated, session_state


@pytest.mark.parametrize("careless, what", [
    (lambda: pyro.param("loc", torch.zeros(2)), "parameter store"),
    (lambda: pyro.enable_validation(False), "Pyro's settings"),
    (lambda: torch.set_default_dtype(torch.float64), "default dtype"),
    (lambda: torch.set_default_device("meta"), "default device"),
    (lambda: torch.set_num_threads(torch.get_num_threads() + 1), "number of threads"),
    (lambda: torch.set_grad_enabled(False), "gradient mode"),
    (lambda: torch.use_deterministic_algorithms(True), "deterministic mode"),
    (lambda: torch.set_flush_denormal(not flushes_denormals()), "denormals"),
    (lambda: np.seterr(all="ignore"), "floating-point errors"),
])
def test_a_careless_test_fails_and_harms_no_other(careless, what):
    before = session_state()
    with pytest.raises(pytest.fail.Exception, match=what):
        with isolated():
            careless()
    assert session_state() == before


def test_the_working_directory_is_watched(tmp_path, monkeypatch):
    with pytest.raises(pytest.fail.Exception, match="working directory"):
        with isolated():
            monkeypatch.chdir(tmp_path)


def test_every_test_draws_the_same_numbers():
    drawn = torch.rand(3), np.random.random(3)  # noqa: NPY002 (the global generator is what is looked at)
    with isolated():
        again = torch.rand(3), np.random.random(3)  # noqa: NPY002
    torch.testing.assert_close(drawn[0], again[0], rtol=0, atol=0)
    np.testing.assert_array_equal(drawn[1], again[1])


def test_the_suite_has_its_small_scene(small_scene):
    assert small_scene.shape == (16, 16, 30) and small_scene.n_pixels == 256
    assert small_scene.reference.sizes["endmember"] == 3
