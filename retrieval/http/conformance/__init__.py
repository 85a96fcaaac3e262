"""Checks that a server speaks the protocol: `python -m retrieval.http.conformance URL`."""
