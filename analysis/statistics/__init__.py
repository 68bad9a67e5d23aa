"""Estimates, tests and power, as functions of arrays."""
