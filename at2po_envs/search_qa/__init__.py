"""Question answering with a search tool, over real question sets and real passages."""
