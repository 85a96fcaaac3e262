"""Quality, speed, cost and load of the retrievers and their server."""
