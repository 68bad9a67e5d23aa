"""One run of one arm: trained, scored, recorded."""
