"""What an auditor hands in: the inbox it lies in, how it gets into the store, and what is checked of a model."""
