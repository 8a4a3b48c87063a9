"""What `python -m engine COMMAND` does: one module per command, its options beside it, and what all of them share."""
