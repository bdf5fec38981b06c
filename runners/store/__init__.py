"""The store of artefacts, and who works on what."""
