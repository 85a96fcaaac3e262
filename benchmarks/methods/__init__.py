"""All methods at an equal budget: `make methods`."""
