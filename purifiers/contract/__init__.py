"""The contract that every purifier must keep, and its checks."""
