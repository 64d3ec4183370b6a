"""The tags in a MATLAB file of version 5, checked before SciPy follows them: it crashes on a type that does not exist."""

from __future__ import annotations

import struct
import zlib
from pathlib import Path

from pyro_unmix.errors import InputError

# Of the format, "MAT-File Format" (MathWorks), table 1-1: an array, and one that is compressed.
_MATRIX, _COMPRESSED = 14, 15
_TYPES = {1, 2, 3, 4, 5, 6, 7, 9, 12, 13, _MATRIX, _COMPRESSED, 16, 17, 18}
_HEADER = 128


def check_tags(path: Path) -> None:
    """Refuse a file with data of an unknown type.

    Raises
    ------
    InputError
        There is such a tag.
    """
    content = memoryview(path.read_bytes())
    _check(content[_HEADER:], "<" if bytes(content[126:128]) == b"IM" else ">", path)


def _check(content: memoryview, order: str, path: Path) -> None:
    place = 0
    while place + 8 <= len(content):
        kind, length = struct.unpack_from(f"{order}II", content, place)
        start, end = place + 8, place + 8 + length
        if small := kind >> 16:  # up to four bytes of data are within the tag
            kind, start, end = kind & 0xFFFF, place + 4, place + 4 + small
        if kind not in _TYPES:
            raise InputError(f"data of a known type in '{path.name}'", f"type {kind}",
                             "it may be damaged: copy or download it again")
        if kind == _COMPRESSED:
            _check(memoryview(zlib.decompress(content[start:end])), order, path)
        elif kind == _MATRIX:
            _check(content[start:end], order, path)
        place = end if kind == _COMPRESSED else end + -end % 8
