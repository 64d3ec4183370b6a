"""Scenes x methods x seeds in one run on one machine: errors, seconds and memory side by side."""

from pyro_unmix.benchmark.run import run_benchmark

__all__ = ["run_benchmark"]
