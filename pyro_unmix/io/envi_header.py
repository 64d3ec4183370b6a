"""What ENVI headers say, of images and of spectral libraries."""

from __future__ import annotations

import math
import re
from pathlib import Path

import numpy as np

from pyro_unmix.errors import InputError

# ENVI's numbers of the types, without the complex ones.
TYPES = {1: "u1", 2: "i2", 3: "i4", 4: "f4", 5: "f8", 12: "u2", 13: "u4", 14: "i8", 15: "u8"}


def read_header(path: Path) -> dict[str, str]:
    """The fields of an ENVI header by name in lower case, lists without their braces.

    Raises
    ------
    InputError
        Not an ENVI header.
    """
    content = path.read_bytes()
    try:
        text = content.decode("utf-8-sig")
    except UnicodeDecodeError:
        text = content.decode("latin-1")
    if text.split("\n", 1)[0].strip() != "ENVI":
        raise InputError(f"an ENVI header in '{path.name}'", "a file whose first line is not ENVI", "check the path")
    fields = re.findall(r"^[ \t]*([^=;{}\n]+?)[ \t]*=[ \t]*(\{.*?\}|[^\n]*)", text, re.MULTILINE | re.DOTALL)
    if unclosed := [name for name, value in fields if value.startswith("{") and "}" not in value]:
        raise InputError(f"a list in braces for '{unclosed[0]}' in '{path.name}'", "one that does not end",
                         "it may be cut short: copy or download it again")
    return {name.lower(): value.strip().strip("{}").strip() for name, value in fields}


def pair(path: Path, endings: tuple[str, ...], what: str) -> tuple[Path, Path]:
    """The header and the numbers, given either: `a.hdr` or `a.sli.hdr`, beside `a` or `a.sli`, where `endings` has ".sli"."""
    if path.suffix.lower() == ".hdr":
        bare = path.with_suffix("")
        cased = ["", *(each for ending in endings for each in (ending, ending.upper()))]
        candidates = [bare.with_name(bare.name + ending) for ending in cased]
    else:
        candidates = [other.with_name(other.name + end) for other in (path.with_suffix(""), path) for end in (".hdr", ".HDR")]
    other = next((candidate for candidate in candidates if candidate.is_file()), None)
    if other is None:
        raise InputError(f"the other file of the {what} beside '{path.name}'",
                         f"none of {', '.join(candidate.name for candidate in candidates)}", "copy both files")
    return (path, other) if path.suffix.lower() == ".hdr" else (other, path)


def numbers(header: dict[str, str], field: str, path: Path, n: int) -> np.ndarray:
    """The list of `n` numbers in a field."""
    try:
        numbers = np.array([float(number) for number in header[field].replace(",", " ").split()])
    except ValueError as error:
        raise InputError(f"numbers in '{field}' of '{path.name}'", f"{error}") from None
    if len(numbers) != n:
        raise InputError(f"{n} numbers in '{field}' of '{path.name}', one a band", f"{len(numbers)}")
    return numbers


def number(header: dict[str, str], field: str, path: Path, default: float | None = None) -> float:
    """The finite number in a field, which may be missing where there is a `default`."""
    try:
        value = float(header[field]) if field in header or default is None else default
        if not math.isfinite(value):
            raise ValueError
        return value
    except (KeyError, ValueError):
        raise InputError(f"a number '{field}' in '{path.name}'", f"'{shown(header, field)}'",
                         "the header is not complete") from None


def shown(header: dict[str, str], field: str) -> str:
    """What a field holds, for a message: on one line, and not all of a list that an open brace has made of the header."""
    return " ".join(header.get(field, "none").split())[:60]
