"""Make `example.npz`, the scene of `pyro-unmix demo`: the same file each time it is run.

    python data/make_example.py [FILE]
"""

from __future__ import annotations

import sys
from pathlib import Path

from pyro_unmix.io import save_scene
from pyro_unmix.simulate import example_scene

if __name__ == "__main__":
    save_scene(example_scene(), sys.argv[1] if len(sys.argv) > 1 else Path(__file__).with_name("example.npz"))
