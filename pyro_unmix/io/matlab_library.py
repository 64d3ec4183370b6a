"""Spectral libraries in the layouts of `.mat` files that unmixing codes ship."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from pyro_unmix.errors import InputError
from pyro_unmix.io import matlab, matlab_layouts


def read_library(path: Path) -> dict:
    """SUnSAL's `datalib` and `names`; a cell array of structs; or bundles of spectra, one a material."""
    variables = matlab.read_arrays(path)
    records = next((value for value in variables.values() if matlab_layouts.is_records(value)), None)
    if records is not None:
        grids = [np.ravel(record.get("wavelength", ())) for record in records]
        spectra = [np.ravel(record["reflectance"]) for record in records]
        if not all(np.array_equal(grid, grids[0]) for grid in grids) or len({len(row) for row in spectra}) > 1:
            raise InputError(f"spectra on one grid of wavelengths in '{path.name}'", "several", "resample them first")
        grid = {"wavelengths": grids[0]} if grids[0].size else {}
        return {"spectra": np.stack(spectra), "names": [record["name"] for record in records]} | grid
    if {"datalib", "names"} <= variables.keys():
        # The first three columns are no spectra: wavelength and resolution (micrometres), channel.
        table, names = variables["datalib"], variables["names"]
        if isinstance(names, np.ndarray):
            names = [line.astype(np.uint8).tobytes().decode("latin-1") for line in names]
        return {"spectra": table[:, 3:].T, "names": [name.strip() for name in names[3:]], "wavelengths": table[:, 0],
                "fwhm": table[:, 1]}
    bundles = sorted((name for name in variables if name.startswith("lib") and name[3:].isdigit()),
                     key=lambda name: int(name[3:]))
    if bundles and len(variables.get("material_names", ())) == len(bundles):
        spectra = [variables[name].T for name in bundles]
        names = [f"{material} {i + 1}" for material, rows in zip(variables["material_names"], spectra, strict=True)
                 for i in range(len(rows))]
        return {"spectra": np.concatenate(spectra), "names": names}
    raise InputError(f"a spectral library in '{path.name}' (datalib and names; a cell array of name, reflectance, "
                     "wavelength; or lib1, lib2, ... and material_names)", matlab.describe(variables),
                     "a scene is opened with open_scene")
