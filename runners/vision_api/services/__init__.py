"""Services that label an image: one module for each provider."""
