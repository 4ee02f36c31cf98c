"""Text in, blocks out: corpora, parallel text, packing."""
