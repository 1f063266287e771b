"""Measurements, side by side with what a user would reach for: `make bench`."""
