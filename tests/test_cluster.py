"""Strips on a Dask cluster are those of threads, and what goes wrong there is told in one line."""

from __future__ import annotations

from types import SimpleNamespace

import dask
import distributed
import pytest
import xarray as xr
from short_fits import quiet_fit
from typer.testing import CliRunner

import pyro_unmix as pu
from pyro_unmix.cli import app
from pyro_unmix.cluster import dask_workers
from pyro_unmix.errors import InputError
from pyro_unmix.run_folder import load_fit, save_fit


@pytest.fixture(scope="module")
def scheduler():
    """One worker, a thread of this process."""
    with distributed.LocalCluster(n_workers=1, threads_per_worker=1, processes=False, protocol="tcp", dashboard_address=None,
                                  silence_logs=False) as cluster:
        yield cluster.scheduler


def test_the_command_works_on_a_cluster(scheduler, tmp_path):
    scene = pu.simulate_scene(3, (150, 9), n_bands=20, seed=3)
    save_fit(tmp_path / "run", quiet_fit(pu.UnmixingModel(3), scene.crop(y=slice(0, 30)), guide="mlp"))
    pu.save_scene(scene, tmp_path / "scene.npz")
    pu.predict(load_fit(tmp_path / "run"), pu.open_scene(tmp_path / "scene.npz"), tmp_path / "threads.nc", progress=False)

    before = len(scheduler.transition_log)
    done = CliRunner().invoke(app, ["predict", str(tmp_path / "run"), str(tmp_path / "scene.npz"), "--out",
                                    str(tmp_path / "dask.nc"), "--dask", scheduler.address], catch_exceptions=False)
    assert done.exit_code == 0 and done.stdout.strip() == f"wrote {tmp_path / 'dask.nc'}"
    in_memory = [key for key, _, state, *_ in list(scheduler.transition_log)[before:] if state == "memory"]
    assert len(in_memory) == 3, "one task a strip"
    one, other = (xr.load_dataset(tmp_path / name, engine="h5netcdf") for name in ("threads.nc", "dask.nc"))
    assert one.identical(other)


@pytest.mark.parametrize("address", ["nonsense", "tcp://127.0.0.1:1", "udp://127.0.0.1:1", ""])
def test_an_address_where_nobody_answers(address, monkeypatch):
    monkeypatch.setattr("pyro_unmix.cluster._WAIT", "200ms")
    with pytest.raises(InputError, match="address of a Dask scheduler that answers"), dask_workers(address):
        pass
    assert dask.config.get("scheduler", None) is None  # nothing else in this process would ask it from now on


def test_workers_that_die(scheduler):
    with pytest.raises(InputError, match="more memory, and resume"), dask_workers(scheduler.address):
        raise distributed.KilledWorker("a strip", SimpleNamespace(address="tcp://127.0.0.1:1"), 3)
