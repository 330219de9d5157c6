"""Models: opening them, and which of their weights belong to a unit."""
