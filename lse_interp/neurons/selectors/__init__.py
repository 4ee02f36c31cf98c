"""Ways to choose neurons, one file each."""
