"""Rollouts: questions in, trees of turns out."""
