"""One self-contained HTML page about a run, in plain language: first whether to trust it, then everything to look at.

`pixels.py` chooses pixels and keeps their spectra, `run.py` reads the folder, `warnings.py` says what is doubtful, `sections.py`
writes what stands still, `explorer.py` packs what the scripts of the page show pixel by pixel, `page.py` puts it together. The
scripts, the style and the templates are files beside them.
"""

from pyro_unmix.report.page import write_report
from pyro_unmix.report.pixels import save_pixels

__all__ = ["save_pixels", "write_report"]
