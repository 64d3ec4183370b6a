"""The paper's experiments and those it invites, each a thin script over the public names that writes a table, a plot and its configuration."""

from pyro_unmix.experiments.ablation import run_ablation
from pyro_unmix.experiments.contexts import run_contexts
from pyro_unmix.experiments.many_endmembers import run_many_endmembers

EXPERIMENTS = {"contexts": run_contexts, "many-endmembers": run_many_endmembers}

__all__ = ["EXPERIMENTS", "run_ablation", "run_contexts", "run_many_endmembers"]
