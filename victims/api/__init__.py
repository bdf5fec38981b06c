"""Victims that are services: 8-bit images to labels, over a network."""
