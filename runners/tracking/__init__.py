"""Runs, told to Weights & Biases."""
