"""Faultline's dashboard. Importing it imports no torch, and no Dash either: a compute worker may import it in passing."""
