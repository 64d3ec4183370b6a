"""`python -m pyro_unmix`, and so `torchrun -m pyro_unmix`, is the command line."""

from pyro_unmix.cli import main

main()
