"""Dense retrieval: encoders, vectors on disk, FAISS."""
