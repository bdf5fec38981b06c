"""One-off commands: benchmarks, checks."""
