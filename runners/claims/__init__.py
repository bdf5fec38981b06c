"""The comparative claims of the papers, stated as data and evaluated from record files."""
