"""Baselines on all question sets."""
