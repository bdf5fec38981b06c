"""Runners: evaluate a cell, make a table; the store, the records and what is computed from them."""
