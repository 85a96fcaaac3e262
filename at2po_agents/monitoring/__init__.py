"""What a run says of itself: metrics, progress, status, time lines."""
