"""The networks that purifiers use, one architecture a file."""
