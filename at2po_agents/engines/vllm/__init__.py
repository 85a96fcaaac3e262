"""vLLM as a generation engine, in this process or behind HTTP."""
