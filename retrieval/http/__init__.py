"""Retrieval over HTTP, with Search-R1's protocol: client, server, and what checks servers."""
