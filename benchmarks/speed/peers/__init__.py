"""Measurements that run in a Python of their own, with a peer's package."""
