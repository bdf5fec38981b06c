"""Records as pages, plots and pictures."""
