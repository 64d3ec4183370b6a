"""Tell how far long work has come: a bar on a terminal or in a notebook, plain lines in a log."""

from __future__ import annotations

import logging
from importlib.util import find_spec

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

log = logging.getLogger("pyro_unmix")


class StageProgress:
    """Use as `with StageProgress(show) as progress`, then `progress.stage(name, total)` and `progress.advance(note)`.

    Parameters
    ----------
    show
        False keeps silent. True draws a bar where standard error is a terminal (or a notebook with ipywidgets), and
        otherwise hands a line every tenth of a stage to the logger "pyro_unmix".
    """

    def __init__(self, show: bool = True):
        console = Console(stderr=True)
        self._bar = Progress(TextColumn("{task.description:>12}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn(),
                             TextColumn("{task.fields[note]}"), console=console) if show else None
        # In a notebook a bar needs ipywidgets.
        self._lines = show and not (find_spec("ipywidgets") if console.is_jupyter else console.is_terminal)

    def __enter__(self) -> StageProgress:
        if self._bar and not self._lines:
            self._bar.start()
        return self

    def __exit__(self, *exception) -> None:
        if self._bar and not self._lines:
            self._bar.stop()

    def stage(self, name: str, total: int, done: int = 0) -> None:
        self._name, self._total, self._done = name, total, done
        if self._bar and not self._lines:
            self._task = self._bar.add_task(name, total=total, completed=done, note="")

    def advance(self, note: str = "") -> None:
        self._done += 1
        if self._lines:
            if self._done % max(1, self._total // 10) == 0 or self._done == self._total:
                log.info("%s %d/%d %s", self._name, self._done, self._total, note)
        elif self._bar:
            self._bar.update(self._task, completed=self._done, note=note)

    def finish(self) -> None:
        """Mark the current stage as done, however many steps it took."""
        if self._bar and not self._lines:
            self._bar.update(self._task, total=self._done)
