"""Episodes: the functional core, its Gymnasium shell, rewards, snapshots, many side by side."""
