"""Evaluation of cells: their parts, settings and images, the tasks that they take, and their records."""
