"""Where results come from, and reasons to doubt them."""
