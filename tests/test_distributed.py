"""Two processes on one scene: the same fit as by one, the same in both, and an end when one of them is gone."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
from pathlib import Path

import pytest
import several_processes
import torch
from several_processes import LONGER, gradients, informed, small_scene, whole_elbo
from short_fits import quiet_fit, same

import pyro_unmix as pu
from pyro_unmix import processes
from pyro_unmix.processes import Processes, is_first, together

CPU = torch.device("cpu")


@pytest.fixture(scope="module")
def found(tmp_path_factory):
    """What two processes of torchrun leave, by rank, and the folder they worked in. One start for all tests: it takes seconds."""
    folder = tmp_path_factory.mktemp("two")
    pu.save_scene(small_scene(), folder / "scene.npz")
    (folder / "short.toml").write_text("svi_steps = 4\ncalibration_steps = 2\nsampling_steps = 40\ntile_size = 8\ndevice = 'cpu'")
    paths = os.pathsep.join(str(Path(module.__file__).parent) for module in (several_processes, pu.errors))
    root = str(Path(pu.__file__).parents[1])
    environment = os.environ | {"OMP_NUM_THREADS": "1", "PYTHONPATH": os.pathsep.join([root, paths])}
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node", "2", several_processes.__file__]
    done = subprocess.run([*command, str(folder)], env=environment, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    return [torch.load(folder / f"found{rank}.pt", weights_only=False) for rank in (0, 1)], folder


@pytest.mark.parametrize("tiles_per_step", [2, 4])
def test_mean_gradient_of_two_processes_is_that_of_all_their_tiles(found, tiles_per_step):
    """Pixels count for the whole scene, endmembers and noise once: with all four tiles it is the gradient of the scene."""
    (first, second), _ = found
    numbers, expected = gradients(Processes(CPU), tiles_per_step)
    taken = [each["gradients"][tiles_per_step] for each in (first, second)]
    assert sorted(taken[0][0] + taken[1][0]) == sorted(numbers) and len(taken[0][0]) == tiles_per_step // 2
    largest = max(gradient.abs().max() for gradient in expected.values())
    assert {"endmembers.shift", "noise.loc", "encoder.layers.0.weight", "head.precision.2.bias"} <= set(expected)
    for _, gradient in taken:
        assert gradient.keys() == expected.keys()
        assert all((gradient[name] - expected[name]).abs().max() < 1e-5 * largest for name in expected)


def test_other_tiles_give_another_gradient():
    """Negative control of the test above."""
    (_, two), (_, four) = (gradients(Processes(CPU), n) for n in (2, 4))
    largest = max(gradient.abs().max() for gradient in four.values())
    assert max((two[name] - four[name]).abs().max() for name in four) > 1e-2 * largest


def test_two_processes_find_what_one_finds(found):
    """Six seeds of one process fall from 31.3 to -19.5 to -16.9 nats per pixel, their endmembers up to 0.031 apart."""
    scene = small_scene()
    alone = quiet_fit(informed(scene), scene, config=LONGER)
    for each in found[0]:
        assert each["elbo"] == pytest.approx(whole_elbo(alone, scene), abs=3.0)
        torch.testing.assert_close(each["endmembers"], alone.guide.endmembers.loc().detach(), atol=0.05, rtol=0)


def test_all_processes_have_the_same_result(found):
    (first, second), _ = found
    assert same(first["whole"][0], second["whole"][0]) and str(first["whole"][1]) == str(second["whole"][1])


def test_a_fit_that_was_killed_and_interrupted_goes_on_to_the_same_end(found):
    """Random numbers are those of each process: bit for bit."""
    for each in found[0]:
        assert each["interrupted"]
        assert same(each["resumed"][0], each["whole"][0]) and str(each["resumed"][1]) == str(each["whole"][1])


def test_only_the_first_process_writes_and_talks(found):
    (first, second), folder = found
    assert (first["kept when killed"], second["kept when killed"]) == (True, False)
    # It is the caller who removes it, when the result is saved.
    assert (first["kept at the end"], second["kept at the end"]) == (True, False)
    assert {path.name for path in (folder / "run0").iterdir()} == {
        "config.json", "history.csv", "pixels.nc", "summary.nc", "weights.pt"}
    assert list((folder / "run1").iterdir()) == []  # but it has shown that it could write
    assert "svi 4/4" in first["said"] and "wrote" in first["said"] and second["said"] == ""


def test_work_that_cannot_be_shared_is_refused_by_all(found):
    for each in found[0]:
        assert each["one tile"].startswith("expected a tile of the scene for each of 2 processes, got 1; ")
        assert each["other seeds"].startswith("expected the same fit in all of 2 processes, got fits that differ; ")


def test_a_process_that_is_gone_is_missed_at_once(found):
    message, seconds = found[0][0]["lost"]
    assert message.startswith("process 0 of 2 cannot go on without the others") and seconds < 20


# One process


def test_alone_nothing_is_changed():
    alone, numbers = Processes(CPU), torch.arange(5)
    assert alone.first and alone.deal(numbers, 2).tolist() == [0, 1] and alone.share(2, 9) == 2 and alone.share(4, 3) == 3
    assert alone.averaged(pu.fit, []) is pu.fit and alone.mean(numbers) is numbers and alone.seed(7) == 7
    assert alone.from_first(lambda: 3) == 3 and alone.gather(4) == [4]
    torch.manual_seed(1)
    state = torch.get_rng_state()
    alone.part_ways(0)
    assert torch.equal(torch.get_rng_state(), state)


@pytest.mark.parametrize("size, wanted, n_tiles, share", [(2, 2, 9, 1), (2, 3, 9, 2), (4, 2, 9, 1), (2, 8, 5, 2), (5, 8, 5, 1)])
def test_a_step_is_divided_and_no_process_is_left_out(size, wanted, n_tiles, share):
    assert [Processes(CPU, rank, size).share(wanted, n_tiles) for rank in range(size)] == [share] * size


def test_every_process_has_a_seed_of_its_own():
    seeds = {Processes(CPU, rank, 4).seed(seed) for rank in range(4) for seed in range(5)}
    assert len(seeds) == 20 and all(0 <= seed < 2**32 for seed in seeds)


def test_a_rank_that_another_program_has_set_is_not_ours(monkeypatch):
    monkeypatch.setenv("RANK", "3")
    assert is_first()
    with together(CPU) as alone:
        assert alone == Processes(CPU)
    monkeypatch.setenv("WORLD_SIZE", "4")
    monkeypatch.setenv("MASTER_ADDR", "localhost")
    assert not is_first()


def test_a_group_that_is_there_already_is_joined(monkeypatch):
    """Of one process: what several do is told above."""
    with socket.socket() as probe:
        probe.bind(("localhost", 0))
        port = probe.getsockname()[1]
    torch.distributed.init_process_group("gloo", init_method=f"tcp://localhost:{port}", rank=0, world_size=1)
    try:
        with together(CPU) as processes:
            assert processes == Processes(CPU) and is_first()
    finally:
        torch.distributed.destroy_process_group()


def test_a_process_without_a_gpu_of_its_own(monkeypatch):
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    assert [processes._gpu(rank) for rank in range(4)] == [0, 1, 0, 1]
    monkeypatch.setenv("LOCAL_RANK", "2")
    with pytest.raises(pu.InputError, match="a GPU for every process on a machine, got 2 and a process with number 2, from 0"):
        processes._gpu(2)
