"""Training: the loop, its batches, its folder; the warm start; exporting a policy."""
