"""Maps patched, and what that shows."""
