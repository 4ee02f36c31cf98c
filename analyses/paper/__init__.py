"""The numbers the paper prints, as tidy tables, and what follows from them."""
