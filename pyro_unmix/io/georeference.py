"""Where pixels are on the ground: from a file to coordinates of a scene, and back."""

from __future__ import annotations

from typing import Any

import numpy as np
import xarray as xr

from pyro_unmix.io.extras import needed

# How far, in pixels, a coordinate may be from the grid of the transform, for rounding.
_SLACK = 0.01


def coordinates(crs: Any, transform: Any, rows: int, cols: int) -> dict:
    """Centres of pixels `x`, `y` and the reference system `spatial_ref`, as rioxarray and the CF conventions have them.

    Of a grid that is turned there are no such centres; then `y` and `x` count pixels, and the transform in `spatial_ref` says
    where they are.
    """
    if crs is None and transform.is_identity:
        return {}
    needed("rioxarray")
    blank = xr.DataArray(np.broadcast_to(np.float32(0), (rows, cols)), dims=("y", "x"))
    if _upright(transform):
        blank = blank.assign_coords(x=transform.c + transform.a * (np.arange(cols) + 0.5),
                                    y=transform.f + transform.e * (np.arange(rows) + 0.5))
    blank = blank.rio.write_crs(crs) if crs is not None else blank
    blank = blank.rio.write_transform(transform)
    if crs is not None and _upright(transform):
        blank = blank.rio.write_coordinate_system()
    return dict(blank.coords)


def reference_system(maps: xr.Dataset) -> Any:
    """The reference system (rasterio's CRS) of maps with a coordinate `spatial_ref`, or None."""
    needed("rioxarray")
    return maps.rio.crs if "spatial_ref" in maps.coords else None


def transform_of(maps: xr.Dataset) -> Any:
    """The affine transform of maps, or None where they are not on a regular grid on the ground.

    It is the very one of the file, number by number, moved by whole pixels where the maps are a part of it.
    """
    affine = needed("rasterio.transform").Affine
    x, y = (np.asarray(maps[dim].values, dtype=np.float64) for dim in ("x", "y"))
    stated = maps.spatial_ref.attrs.get("GeoTransform") if "spatial_ref" in maps.coords else None
    if stated is not None:
        transform = affine.from_gdal(*map(float, str(stated).split()))
        if _upright(transform):
            col, row = (x - transform.c) / transform.a - 0.5, (y - transform.f) / transform.e - 0.5
        else:
            col, row = x, y
        if _counts(col) and _counts(row):
            a, b, c, d, e, f = transform[:6]
            i, j = round(col[0]), round(row[0])
            return affine(a, b, c + i * a + j * b, d, e, f + i * d + j * e)
    if "spatial_ref" not in maps.coords or min(len(x), len(y)) < 2:
        return None
    across, down = (values[-1] - values[0] for values in (x, y))
    across, down = across / (len(x) - 1), down / (len(y) - 1)
    if not (across and down and _counts((x - x[0]) / across) and _counts((y - y[0]) / down)):
        return None
    return affine(across, 0.0, x[0] - across / 2, 0.0, down, y[0] - down / 2)


def _upright(transform: Any) -> bool:
    return transform.b == 0 and transform.d == 0


def _counts(positions: np.ndarray) -> bool:
    """Whether these are pixels one after the other."""
    return bool((np.abs(positions - round(positions[0]) - np.arange(len(positions))) < _SLACK).all())
