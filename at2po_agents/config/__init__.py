"""Settings of a run, of its processes and of the warm start; the presets."""
