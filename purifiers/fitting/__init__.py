"""The fitting of one small network to each image, many images at a time."""
