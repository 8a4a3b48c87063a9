"""From weak maps to a causal test: ranked on one half of a run's fooled images, patched in the other."""
