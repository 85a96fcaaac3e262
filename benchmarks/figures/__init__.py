"""Measured figures as curves, and in README.md and docs."""
