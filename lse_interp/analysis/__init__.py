"""Measurements, one file each: result, function, report."""
