"""Networks: files, names, graphs, sites and taps; the only place that knows an architecture. Imports torch."""
