"""Purifiers in front of vision APIs."""
