"""Passages and where they come from: files, stored folders, data sets."""
