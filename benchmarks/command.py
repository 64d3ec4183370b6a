"""The command line in a process of its own, and how it ended."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from collections import Counter
from collections.abc import Iterable
from typing import NamedTuple

COMMAND = [sys.executable, "-c", "import sys; from pyro_unmix.cli import main; sys.argv[0] = 'pyro-unmix'; main()"]
# Another number of threads would round sums in another way.
_ENVIRONMENT = os.environ | {"OMP_NUM_THREADS": "1", "COLUMNS": "120"}
# Warnings and progress, which may stand before an error.
_BESIDE = re.compile(r"warning: |\w+ (\d+/\d+|[\d.]+ s)\b")


class Ended(NamedTuple):
    """A process that has ended. `code` below zero: the signal that ended it; None: it took too long and was killed."""

    code: int | None
    out: str
    err: str

    @property
    def outcome(self) -> str:
        """What a user sees, in two or three words."""
        if self.code is None:
            return "hangs"
        if "Traceback" in self.err:
            return "traceback"
        if self.code == 0:
            return "done, warned" if "warning: " in self.err else "done"
        if self.code < 0:
            return f"ended by signal {-self.code}"
        lines = [line for line in self.err.splitlines() if not _BESIDE.match(line)]
        return "one line" if self.code == 2 and len(lines) == 1 and lines[0].startswith("error: ") else "unclear"


def started(*arguments: object, command: list[str] = COMMAND) -> subprocess.Popen:
    return subprocess.Popen([*command, *map(str, arguments)], env=_ENVIRONMENT, stdout=subprocess.PIPE, stderr=subprocess.PIPE,
                            text=True)


def ended(process: subprocess.Popen, limit: float = 300.0) -> Ended:
    """Wait for it so many seconds."""
    try:
        out, err = process.communicate(timeout=limit)
    except subprocess.TimeoutExpired:
        process.kill()
        return Ended(None, *process.communicate())
    return Ended(process.returncode, out, err)


def ran(*arguments: object) -> Ended:
    """`pyro-unmix ARGUMENTS`, to its end."""
    return ended(started(*arguments))


def must(*arguments: object) -> Ended:
    """The same, of what every case builds on."""
    done = ran(*arguments)
    if done.code != 0:
        raise SystemExit(f"pyro-unmix {' '.join(map(str, arguments))} ended with {done.code}: {done.err}")
    return done


def row(case: str, tries: Iterable[tuple[Ended, list[str]]]) -> dict:
    """A line of the table: how often a case was tried, how that ended, and what was wrong beside."""
    tries = list(tries)
    outcomes = Counter(done.outcome for done, _ in tries)
    wrong = dict.fromkeys(fault for _, faults in tries for fault in faults)
    return {"case": case, "count": len(tries), "code": ", ".join(sorted({str(done.code) for done, _ in tries})),
            "outcome": "; ".join([*(f"{name}: {count}" for name, count in outcomes.items()), *wrong])}
