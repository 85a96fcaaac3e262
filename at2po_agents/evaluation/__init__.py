"""What is evaluated: a policy, baselines without training, models behind an endpoint."""
