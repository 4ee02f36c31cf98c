"""Tasks for lm-evaluation-harness, with the prompts and settings of the paper."""
