"""The version of Faultline: part of what a run is, and what `engine.__version__` says."""

VERSION = "0.2.0"
