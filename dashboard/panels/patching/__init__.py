"""Maps put back, and what that shows."""
