"""The store of artifacts, and the claims of the processes that work on them."""
