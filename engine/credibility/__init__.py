"""Whether an attack's failure may be read as robustness: the checks, what they need, and their outcomes."""
