"""Training a subnetwork, and the baselines it is compared with: engines, loss, text, loop."""
