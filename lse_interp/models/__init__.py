"""A transformers model with sites; the only code that knows architectures."""
