"""The panels of the page: each folder holds what it says (model), how it stands there (view) and its plots (figure)."""
