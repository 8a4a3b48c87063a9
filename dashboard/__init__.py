"""Faultline's dashboard. Importing it imports no torch and no Dash: compute workers import it in passing."""
