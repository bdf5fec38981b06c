"""The networks that purifiers use, one architecture per file."""
