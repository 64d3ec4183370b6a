"""Classical unmixing methods, one a file. They are baselines, and they initialise the Bayesian model."""
