"""What is maximised: credit for turns, rows of tokens, policy losses, how far an update moved."""
