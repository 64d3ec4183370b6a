"""The paper's experiments and those it invites: thin scripts that write a table, a plot and their settings."""

from pyro_unmix.experiments.ablation import run_ablation
from pyro_unmix.experiments.contexts import run_contexts
from pyro_unmix.experiments.many_endmembers import run_many_endmembers

EXPERIMENTS = {"contexts": run_contexts, "many-endmembers": run_many_endmembers}

__all__ = ["EXPERIMENTS", "run_ablation", "run_contexts", "run_many_endmembers"]
