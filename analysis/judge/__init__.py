"""Contrasts and claims, judged."""
