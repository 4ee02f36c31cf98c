"""Ways to train a model for a language."""
