"""Every table of the report, once, as printed cells.

A table that may have nothing to show is None then. Columns, cells and captions
stand here; ``paper.document`` says where a table appears, the skins how it
looks.
"""
