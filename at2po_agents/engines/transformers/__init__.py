"""Continuous batching over models of Hugging Face transformers."""
