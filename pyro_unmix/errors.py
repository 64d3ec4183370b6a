"""Everything that can go wrong, under one root, in words a user can act on."""

from __future__ import annotations


class UnmixError(Exception):
    """Root of every error raised on purpose by pyro_unmix."""


class InputError(UnmixError):
    """Input that cannot be used: what was expected, what came, what to do.

    Not a ValueError: Pyro catches those in a model or a guide and makes them anew, from one string of several lines.

    Parameters
    ----------
    expected, got
        Noun phrases; they read as "expected <expected>, got <got>".
    advice
        One sentence that says how to mend it.
    """

    def __init__(self, expected: str, got: str, advice: str = ""):
        self.expected, self.got, self.advice = expected, got, advice
        super().__init__(one_line(f"expected {expected}, got {got}" + (f"; {advice}" if advice else "")))

    def __reduce__(self):
        # Exceptions are rebuilt from `args`, which here hold the one joined line.
        return type(self), (self.expected, self.got, self.advice)


class FitDiverged(UnmixError, ArithmeticError):
    """Training met a value that is not finite.

    Attributes
    ----------
    site
        Name of the first Pyro site or parameter that is not finite.
    step
        Training step, counted from 0.
    """

    def __init__(self, site: str, step: int):
        self.site, self.step = site, step
        super().__init__(
            f"training diverged at step {step}: '{site}' is not finite; "
            "lower the learning rate, or raise the noise floor or the concentration floor of the guide"
        )

    def __reduce__(self):
        return type(self), (self.site, self.step)


class ProcessLost(UnmixError):
    """Another of the processes that train together has stopped, or is not heard of.

    Attributes
    ----------
    rank, size
        Number of the process that misses it, from 0, and how many there are.
    """

    def __init__(self, rank: int, size: int):
        self.rank, self.size = rank, size
        super().__init__(f"process {rank} of {size} cannot go on without the others, one of which has stopped; "
                         "see what that one said, and resume from the checkpoint if there is one")

    def __reduce__(self):
        return type(self), (self.rank, self.size)


def one_line(text: str) -> str:
    """The text on one line, of what can be printed: it may quote a damaged file, or one made to control a terminal."""
    return " ".join("".join(each if each.isprintable() else " " for each in text).split())


class UnmixWarning(UserWarning):
    """Something was mended or looks wrong; the work goes on."""
