"""BM25, in memory or on disk: analyzers, postings, weights, the index."""
