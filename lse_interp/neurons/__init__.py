"""Which neurons belong to a language."""
