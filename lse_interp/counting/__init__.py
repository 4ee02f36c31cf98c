"""Activation counts: how often each neuron is active on text of a language."""
