"""Loggers: they read record files and table files, and log them elsewhere."""
