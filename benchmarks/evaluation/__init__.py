"""Evaluations that can be trusted: every episode on record, resumable, with a card."""
