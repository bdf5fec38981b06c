"""A vision API on this machine, to try the benchmark without an account."""
