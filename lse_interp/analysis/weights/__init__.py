"""How the weights of a model changed."""
