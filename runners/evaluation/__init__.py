"""What a cell is: its parts, its settings, its images, its records."""
