"""Examples to copy from. Run from the repository, with the extra `examples` installed."""
