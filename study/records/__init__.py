"""What runs and searches leave behind, and who is writing it now."""
