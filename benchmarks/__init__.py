"""Measurements: one command each, a table last, results beside them."""
