"""The paper's Table 1, and what of it fits together."""
