"""The learner: packed trees, log-probabilities, one optimizer step, checkpoints, ranks."""
