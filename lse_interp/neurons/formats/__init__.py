"""Neuron sets in other formats."""
