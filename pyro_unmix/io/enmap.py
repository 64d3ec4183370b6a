"""What EnMAP's products say of their bands: not in the image but in a METADATA.XML beside it."""

from __future__ import annotations

from pathlib import Path
from xml.etree import ElementTree

import numpy as np

from pyro_unmix.errors import InputError

_IMAGE, _METADATA = "spectral_image", "METADATA"
_FIELDS = {"wavelength": "wavelengthCenterOfBand", "fwhm": "FWHMOfBand", "gain": "GainOfBand", "offset": "OffsetOfBand"}


def bands_beside(path: Path, n_bands: int) -> dict[str, np.ndarray]:
    """`wavelength` and `fwhm` (nm), `gain` and `offset`, each `(n_bands,)`; nothing where `path` is no image of a product.

    Raises
    ------
    InputError
        The XML cannot be read, or is of another number of bands.
    """
    name = path.stem
    if not name.lower().endswith(_IMAGE):
        return {}
    beside = (path.with_name(name[: -len(_IMAGE)] + _METADATA + ending) for ending in (".XML", ".xml"))
    found = next((other for other in beside if other.is_file()), None)
    if found is None:
        return {}
    try:
        bands = ElementTree.parse(found).getroot().findall(".//bandCharacterisation/bandID")
        bands.sort(key=lambda band: int(band.attrib["number"]))
        values = {what: np.array([float(band.findtext(field, "")) for band in bands]) for what, field in _FIELDS.items()}
    except (ElementTree.ParseError, KeyError, ValueError) as error:
        raise InputError(f"EnMAP's description of bands in '{found.name}'", f"what cannot be read as one ({error})",
                         "copy it again, or leave it out to open the image without wavelengths") from error
    if len(bands) != n_bands:
        raise InputError(f"{n_bands} bands in '{found.name}', as in the image", f"{len(bands)}", "is it of another product?")
    return values
