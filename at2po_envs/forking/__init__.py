"""Environments that can be forked: checked, and made so by replay."""
