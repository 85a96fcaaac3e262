"""Two or more evaluations of the same questions: `at2po compare`."""
