"""Records as the tables of papers."""
