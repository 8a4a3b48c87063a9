"""The models and data sets of the store."""
