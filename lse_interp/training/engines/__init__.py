"""Two ways to train chosen neurons."""
