"""What this study costs beside TRL."""
