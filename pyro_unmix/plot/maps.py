"""Maps of the abundances, one for each endmember."""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple

import xarray as xr
from matplotlib.figure import Figure

from pyro_unmix.errors import InputError
from pyro_unmix.plot.frame import check_posterior, colour_bar, colours, in_order_of, map_axes, summary_of, top_of


class _Row(NamedTuple):
    """Maps (y, x, endmember) that share a scale from 0 to `top`."""

    label: str
    maps: xr.DataArray
    colours: str
    top: float


def abundance_maps(post, reference: xr.Dataset | None = None) -> Figure:
    """Maps of the abundances: posterior mean, standard deviation and, if given, the reference.

    Parameters
    ----------
    post
        A posterior, or its summary. Maps of one kind share one scale; masked pixels are grey.
    reference
        `Scene.reference`: matched to the endmembers by spectral angle and moved to their amplitude.

    Raises
    ------
    InputError
        No abundances in `post`, or a reference that does not fit to it.
    """
    summary = summary_of(post, "abundance_mean", "abundance_sd")
    rows = [_Row("mean\nabundance", summary.abundance_mean, "viridis", 1.0),
            _Row("standard\ndeviation", summary.abundance_sd, "cividis", top_of(summary.abundance_sd))]
    names = _names(summary)
    titles = [names, [""] * len(names)]
    if reference is not None:
        known, known_names = in_order_of(summary, reference)
        if "abundances" not in known:
            raise InputError("a reference with abundances", ", ".join(map(str, known)), "leave the reference out")
        rows.append(_Row("reference\nabundance", known.abundances, "viridis", 1.0))
        titles.append(known_names)
    return _draw(rows, titles)


def compare_maps(rows: Mapping[str, xr.DataArray]) -> Figure:
    """Maps of abundances from several sources, one row a source, all on one scale from 0 to the largest.

    Parameters
    ----------
    rows
        By label: `(y, x, endmember)`, of the same endmembers; NaN is grey.

    Raises
    ------
    InputError
        No row, or rows of other endmembers or of another size.
    """
    maps = list(rows.values())
    if not maps or any(each.sizes != maps[0].sizes or _names(each) != _names(maps[0]) for each in maps):
        raise InputError("maps (y, x, endmember) of the same endmembers", f"{[dict(each.sizes) for each in maps]}")
    top = max(float(each.max()) for each in maps)
    return _draw([_Row(label, each, "viridis", top) for label, each in rows.items()],
                 [_names(maps[0])] + [[""] * len(_names(maps[0]))] * (len(maps) - 1))


def exceedance(post, threshold: float) -> Figure:
    """Maps of the probability that an abundance is above `threshold`, all on one scale from 0 to 1; masked pixels are grey.

    Raises
    ------
    InputError
        Not a posterior (a summary does not know), or a threshold that is not between 0 and 1.
    """
    check_posterior(post, "exceedance")
    probability = post.exceedance(threshold)
    return _draw([_Row(f"probability that\nabundance > {threshold:g}", probability, "magma", 1.0)], [_names(probability)])


def _draw(rows: list[_Row], titles: list[list[str]]) -> Figure:
    sizes = rows[0].maps.sizes
    figure, axes = map_axes((sizes["y"], sizes["x"]), titles)
    for r, row in enumerate(rows):
        maps = row.maps.transpose("endmember", "y", "x").values
        for line, first in zip(axes[:, r], range(0, len(maps), axes.shape[2]), strict=True):
            for axis, values in zip(line, maps[first:], strict=False):  # the last line may have panels left over
                image = axis.imshow(values, cmap=colours(row.colours), vmin=0.0, vmax=row.top)
            colour_bar(figure, image, list(line), row.label, extend="max" if row.top < 1.0 else "neither")
    return figure


def _names(data: xr.Dataset | xr.DataArray) -> list[str]:
    return [str(name) for name in data.endmember.values]
