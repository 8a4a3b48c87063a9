"""Where the fooled images of a run end: from which class into which, and how accuracy falls with the strength of an attack."""
