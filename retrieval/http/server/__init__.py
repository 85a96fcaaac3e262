"""The retrieval server: an application that any ASGI server runs, and ours that trusts nobody."""
