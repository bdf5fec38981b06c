"""Purifiers, which map images to images in [0, 1] without knowing the clean image or the label."""
