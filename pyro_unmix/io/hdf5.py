"""What HDF5 files are checked for before a library reads them."""

from __future__ import annotations

from pathlib import Path

import h5py

from pyro_unmix.errors import InputError
from pyro_unmix.io.sizes import check_size


def check_contents(group: h5py.Group, path: Path, here: int | None = None) -> None:
    """Refuse what is larger than the file can hold, or lies in other files.

    Raises
    ------
    InputError
        There is such a thing in the group, or in one below it.
    """
    here = path.stat().st_size if here is None else here
    for name in group:
        link = group.get(name, getlink=True)
        if isinstance(link, h5py.ExternalLink):
            raise InputError(f"all data of '{path.name}' in that file", f"'{name}', which is in '{link.filename}'", "copy it in")
        item = group.get(name)
        if isinstance(item, h5py.Dataset):
            if item.external or item.is_virtual:
                raise InputError(f"all data of '{path.name}' in that file", f"'{name}', which is in another", "copy it in")
            if item.shape and item.size:
                check_size(item.shape, item.dtype.itemsize, here, path)
        elif isinstance(item, h5py.Group) and isinstance(link, h5py.HardLink):
            check_contents(item, path, here)
