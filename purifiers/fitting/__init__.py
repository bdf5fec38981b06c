"""Fits one small network to each image, for many images at a time."""
