"""Packages that only some formats and ways of working need."""

from __future__ import annotations

import importlib
from types import ModuleType

from pyro_unmix.errors import InputError

_EXTRAS = {"rasterio": "geo", "rioxarray": "geo", "zarr": "scale", "distributed": "scale"}


def needed(package: str) -> ModuleType:
    """The package, imported; importing takes a second, and only some formats need it.

    Raises
    ------
    InputError
        It is not installed.
    """
    try:
        return importlib.import_module(package)
    except ImportError as error:
        raise InputError(f"the package {package}, which this needs", "an environment without it",
                         f"pip install 'pyro_unmix[{_EXTRAS[package.split('.')[0]]}]'") from error
