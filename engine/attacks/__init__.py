"""Attacks and the noise beside them; the only place that knows an attack library. Imports torch below the catalogue."""
