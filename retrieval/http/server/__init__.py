"""The retrieval server: an ASGI application, and a server that hostile clients cannot stop."""
