"""Rollout workers and learner workers, in this process or in several."""
