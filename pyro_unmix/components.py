"""Write down which parts a model or a guide is made of, and make them again.

A part that can be written down is a module whose constructor takes its `settings`, a dictionary of plain values. Arrays live
in the state of the module, not here. Anything else (a user's callable) is noted as custom and must be given again by hand.
"""

from __future__ import annotations

from types import ModuleType
from typing import Any

from torch import nn

from pyro_unmix import encoders, heads, mixing, noise, priors, variability
from pyro_unmix.errors import InputError

_HOMES: tuple[ModuleType, ...] = (encoders, heads, mixing, noise, priors, variability)


def describe(part: nn.Module | None) -> dict | None:
    """Class and settings of a part as plain values, or a note that it is custom."""
    if part is None:
        return None
    settings = getattr(part, "settings", None)
    if settings is None or not any(_lives_in(type(part), home) for home in _HOMES):
        return {"custom": type(part).__name__}
    return {"class": type(part).__name__, **settings}


def restore(description: dict | None) -> Any:
    """Make a part from its description.

    Raises
    ------
    InputError
        The part is custom, or of a class or with settings that this version does not know.
    """
    if description is None:
        return None
    settings = dict(description)
    name = settings.pop("class", None)
    kinds = {key: kind for home in _HOMES for key, kind in vars(home).items()
             if isinstance(kind, type) and issubclass(kind, nn.Module) and _lives_in(kind, home)}
    try:
        return kinds[name](**settings)
    except (KeyError, TypeError) as error:
        raise InputError("a part that this version can make", f"{description}",
                         "give the model or guide that was fitted to load_fit(folder, model=..., guide=...)") from error


def _lives_in(kind: type, home: ModuleType) -> bool:
    return f"{kind.__module__}.".startswith(f"{home.__name__}.")
