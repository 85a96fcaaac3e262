"""Intervals, and tests of a difference."""
