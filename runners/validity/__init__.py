"""The provenance of results, and reasons to doubt them."""
