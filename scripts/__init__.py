"""Commands for maintainers, such as benchmarks and checks."""
