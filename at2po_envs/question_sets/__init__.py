"""Questions with their golden answers, and the sets as published."""
