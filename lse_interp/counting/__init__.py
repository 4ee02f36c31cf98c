"""The engine behind `lse_interp.activations`: running counts, shards on disk, processes."""
