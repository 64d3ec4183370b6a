"""Hand draws to ArviZ, of whichever generation is installed. The only file that imports it."""

from __future__ import annotations

import arviz
import xarray as xr


def to_arviz(draws: xr.Dataset, observed: xr.DataArray):
    """Draws of one chain with what they explain.

    Parameters
    ----------
    draws
        Dimension `draw` and any others.
    observed
        Reflectance `(y, x, wavelength)`.

    Returns
    -------
    data
        `arviz.InferenceData` before ArviZ 1.0, `xarray.DataTree` from then on, with groups posterior and observed_data.
    """
    groups = {"posterior": draws.expand_dims("chain").assign_coords(chain=[0]),
              "observed_data": observed.to_dataset(name="reflectance")}
    if int(arviz.__version__.split(".")[0]) < 1:  # 1.x still answers to the name InferenceData, with a warning and another class
        return arviz.InferenceData(**groups)  # type: ignore[arg-type]
    return xr.DataTree.from_dict(groups)
