"""Purifiers: image to image of the same shape in [0, 1], blind to the clean image and the label."""
