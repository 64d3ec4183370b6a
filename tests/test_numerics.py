"""What is changed for a while is put back."""

from __future__ import annotations

import random

import numpy as np
import pyro
import pytest
import torch
from conftest import flushes_denormals

from pyro_unmix.errors import InputError
from pyro_unmix.numerics import flush_denormals, one_thread, seeded


def draw():
    return torch.rand(3).tolist(), np.random.random(3).tolist(), random.random()  # noqa: NPY002


def test_denormals_are_flushed_within_and_kept_without():
    assert not flushes_denormals()
    with flush_denormals():
        assert flushes_denormals()
        assert (torch.full((4,), 1e-30) * 1e-10 == 0).all()
    assert not flushes_denormals()
    assert (torch.full((4,), 1e-30) * 1e-10 > 0).all()


def test_flushing_may_be_nested():
    with flush_denormals():
        with flush_denormals():
            pass
        assert flushes_denormals()
    assert not flushes_denormals()


def test_flushing_ends_with_an_error_too():
    with pytest.raises(ZeroDivisionError), flush_denormals():
        raise ZeroDivisionError
    assert not flushes_denormals()


def test_a_seed_gives_the_same_numbers():
    with seeded(5):
        first = draw()
    draw()
    with seeded(5):
        again = draw()
    with seeded(6):
        other = draw()
    assert first == again and first != other


@pytest.mark.parametrize("seed", [-1, 2**32, 1.5, "zero", None])
def test_a_seed_that_cannot_be_is_refused(seed):
    with pytest.raises(InputError, match=f"a seed.*got {seed!r}"), seeded(seed):
        pass


def test_a_seed_may_come_from_numpy():
    with seeded(np.int64(5)):
        first = draw()
    with seeded(5):
        assert draw() == first


def test_the_numbers_outside_are_left_alone():
    pyro.set_rng_seed(1)
    undisturbed = draw(), draw()
    pyro.set_rng_seed(1)
    before = draw()
    with seeded(5):
        draw()
        with seeded(7):
            draw()
    assert (before, draw()) == undisturbed


def test_the_numbers_outside_are_left_alone_by_an_error():
    pyro.set_rng_seed(1)
    undisturbed = draw()
    pyro.set_rng_seed(1)
    with pytest.raises(ZeroDivisionError), seeded(5):
        draw()
        raise ZeroDivisionError
    assert draw() == undisturbed


@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
def test_the_numbers_of_a_gpu_are_left_alone():
    torch.cuda.manual_seed(1)
    undisturbed = torch.rand(3, device="cuda")
    torch.cuda.manual_seed(1)
    with seeded(5):
        torch.rand(3, device="cuda")
    torch.testing.assert_close(torch.rand(3, device="cuda"), undisturbed, rtol=0, atol=0)


def test_one_thread_is_given_back():
    before = torch.get_num_threads()
    torch.set_num_threads(3)
    try:
        with one_thread():
            assert torch.get_num_threads() == 1

        @one_thread()
        def threads():
            return torch.get_num_threads()

        assert threads() == 1 and torch.get_num_threads() == 3
        with pytest.raises(ZeroDivisionError), one_thread():
            1 / 0  # noqa: B018
        assert torch.get_num_threads() == 3
    finally:
        torch.set_num_threads(before)
