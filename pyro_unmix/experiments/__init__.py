"""The paper's experiments and those it invites, over the public interface: each writes a table, a plot and its configuration."""
