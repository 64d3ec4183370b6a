"""Errors say what was expected, what came and what to do, and survive a trip between processes."""

from __future__ import annotations

import pickle

import pytest
from pyro import poutine

from pyro_unmix.errors import FitDiverged, InputError, UnmixError, UnmixWarning


def test_an_input_error_reads_as_one_sentence():
    error = InputError("3 names", "2", "name every endmember")
    assert str(error) == "expected 3 names, got 2; name every endmember"
    assert str(InputError("3 names", "2")) == "expected 3 names, got 2"
    assert (error.expected, error.got, error.advice) == ("3 names", "2", "name every endmember")


def test_an_error_is_one_line_of_what_can_be_printed():
    error = InputError("a name", "'\x1b[2Jred\n\ud800 \u202eoak'")
    assert str(error) == "expected a name, got ' [2Jred oak'" and str(error).encode()


def test_an_input_error_passes_through_pyro_as_it_is():
    error = InputError("a scene of leaves", "one of stones")

    def model():
        raise error

    with pytest.raises(InputError) as caught:
        poutine.trace(model).get_trace()
    assert caught.value is error


def test_divergence_carries_its_place():
    error = FitDiverged("noise_scale", 17)
    assert (error.site, error.step) == ("noise_scale", 17)
    assert "step 17" in str(error) and "'noise_scale'" in str(error) and "\n" not in str(error)


@pytest.mark.parametrize("error", [InputError("a", "b", "c"), InputError("a", "b"), FitDiverged("site", 3)])
def test_errors_survive_pickling(error):
    again = pickle.loads(pickle.dumps(error))
    assert type(again) is type(error) and str(again) == str(error) and vars(again) == vars(error)


def test_errors_have_one_root():
    assert issubclass(InputError, UnmixError)
    assert issubclass(FitDiverged, UnmixError) and issubclass(FitDiverged, ArithmeticError)
    assert issubclass(UnmixWarning, UserWarning) and not issubclass(UnmixWarning, UnmixError)
