"""Sizes that a file cannot have."""

from __future__ import annotations

from pathlib import Path

from pyro_unmix.errors import InputError

# Nothing that a sensor sees can be packed closer: a header that promises more is wrong.
_CLOSEST_PACKING = 2000


def check_size(shape: tuple[int, ...], itemsize: int, there: int, path: Path, *, packed: bool = True) -> None:
    """Refuse sizes that the bytes of a file cannot hold, before memory is asked for."""
    wanted = itemsize
    for length in shape:
        wanted *= int(length)
    if min(shape, default=1) < 1 or wanted > there * (_CLOSEST_PACKING if packed else 1):
        raise InputError(f"a file as large as its header says ({' x '.join(map(str, shape))} values, {wanted} bytes)",
                         f"'{path.name}' of {there} bytes", "it may be cut short: copy or download it again")
