"""Many cells at once, here or elsewhere."""
