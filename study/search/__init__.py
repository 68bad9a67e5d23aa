"""The search for an arm's settings."""
