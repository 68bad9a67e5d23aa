"""Figures: what each shows as data, and a thin function that draws it."""
