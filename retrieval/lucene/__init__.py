"""BM25 by Lucene itself, and the Java that it runs on."""
