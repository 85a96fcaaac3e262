"""What a training step costs on many GPUs: simulated, and held against runs on this machine."""
