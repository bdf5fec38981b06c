"""Where figures come from, and reasons to doubt them."""
