"""The store of artifacts, and who works on what."""
