"""The exact posterior where there is one: one algorithm a file."""
