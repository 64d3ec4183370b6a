"""A bar where someone watches, lines in a log where nobody does, silence on request."""

from __future__ import annotations

import io
import logging

import pytest
from rich.console import Console

from pyro_unmix import progress
from pyro_unmix.progress import StageProgress


@pytest.fixture
def console(monkeypatch):
    """Stands for standard error; whether it is a terminal is for the test to say."""
    def make(terminal: bool) -> io.StringIO:
        out = io.StringIO()
        monkeypatch.setattr(progress, "Console", lambda stderr: Console(
            file=out, force_terminal=terminal, force_jupyter=False, width=100, color_system=None))
        return out
    return make


def work(bar, steps=20, total=20, done=0):
    with bar:
        bar.stage("svi", total, done)
        for number in range(done, steps):
            bar.advance(f"loss {number}")
        bar.finish()


def test_a_log_gets_a_line_every_tenth(console, caplog):
    out = console(terminal=False)
    with caplog.at_level(logging.INFO, logger="pyro_unmix"):
        work(StageProgress())
    assert [record.getMessage() for record in caplog.records] == [f"svi {n}/20 loss {n - 1}" for n in range(2, 21, 2)]
    assert out.getvalue() == ""


def test_a_short_stage_logs_every_step_and_a_long_one_its_last(console, caplog):
    console(terminal=False)
    with caplog.at_level(logging.INFO, logger="pyro_unmix"):
        work(StageProgress(), steps=3, total=3)
        work(StageProgress(), steps=25, total=25)
    lines = [record.getMessage() for record in caplog.records]
    assert lines[:3] == ["svi 1/3 loss 0", "svi 2/3 loss 1", "svi 3/3 loss 2"]
    assert lines[-1] == "svi 25/25 loss 24" and len(lines) == 3 + 13


def test_a_log_goes_on_where_work_was_resumed(console, caplog):
    console(terminal=False)
    with caplog.at_level(logging.INFO, logger="pyro_unmix"):
        work(StageProgress(), done=17)
    assert [record.getMessage() for record in caplog.records] == ["svi 18/20 loss 17", "svi 20/20 loss 19"]


def test_a_terminal_gets_a_bar(console, caplog):
    out = console(terminal=True)
    with caplog.at_level(logging.INFO, logger="pyro_unmix"):
        work(StageProgress())
    assert not caplog.records
    assert "svi" in out.getvalue() and "20/20" in out.getvalue() and "loss 19" in out.getvalue()


def test_a_stage_that_ends_early_is_shown_as_done(console):
    out = console(terminal=True)
    work(StageProgress(), steps=7)
    assert out.getvalue().rstrip().rfind("7/7") > out.getvalue().rfind("/20")


def test_the_bar_goes_away_with_an_error(console):
    console(terminal=True)
    bar = StageProgress()
    with pytest.raises(ZeroDivisionError), bar:
        bar.stage("svi", 3)
        raise ZeroDivisionError
    assert not bar._bar.live.is_started


@pytest.mark.parametrize("terminal", [True, False])
def test_silence_on_request(console, caplog, capsys, terminal):
    out = console(terminal)
    with caplog.at_level(logging.INFO, logger="pyro_unmix"):
        work(StageProgress(show=False))
    assert not caplog.records and out.getvalue() == "" and capsys.readouterr() == ("", "")
