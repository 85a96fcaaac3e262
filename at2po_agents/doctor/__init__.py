"""Whether an installation works, and whether a training fits into memory."""
