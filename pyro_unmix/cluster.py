"""Workers of a Dask cluster, in place of threads."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from concurrent.futures import CancelledError, Executor
from contextlib import contextmanager

from pyro_unmix.errors import InputError
from pyro_unmix.io.extras import needed

_WAIT = "10s"


@contextmanager
def dask_workers(address: str) -> Iterator[Executor]:
    """Workers behind the scheduler at an `address`, or of a cluster that is made here if it is "local".

    Raises
    ------
    InputError
        Dask is not installed, nothing answers at the address, or the workers die.
    """
    distributed = needed("distributed")
    logging.getLogger("distributed").setLevel(logging.CRITICAL)  # what a cluster says of itself is no news of a scene
    try:
        # Not the default: what else uses Dask in this process would ask it, also when it is gone.
        client = distributed.Client(None if address == "local" else address, timeout=_WAIT, set_as_default=False)
    except (OSError, ValueError) as error:
        raise InputError("'local', or the address of a Dask scheduler that answers, such as tcp://127.0.0.1:8786",
                         f"'{address}' ({error})", "see what 'dask scheduler' says when it starts") from error
    try:
        with client:
            yield client.get_executor()
    except (distributed.KilledWorker, CancelledError) as error:
        raise InputError("Dask workers that live until the work is done", f"{type(error).__name__}: {error}",
                         "give them more memory, and resume") from error
