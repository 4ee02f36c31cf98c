"""Find, load, apply and export trained subnetworks."""
