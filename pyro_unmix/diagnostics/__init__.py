"""Whether a posterior can be trusted: against truth where it is known, against the scene's own residuals where it is not."""

from pyro_unmix.diagnostics.calibration import compare_to_nuts, coverage_curve, crps, pit, sbc_ranks, uniformity
from pyro_unmix.diagnostics.findings import Finding, findings
from pyro_unmix.diagnostics.residuals import Checks, check_residuals

__all__ = [
    "Checks", "Finding", "check_residuals", "compare_to_nuts", "coverage_curve", "crps", "findings", "pit", "sbc_ranks",
    "uniformity",
]
