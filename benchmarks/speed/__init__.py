"""Speed of rollouts and of updates, beside other ways."""
