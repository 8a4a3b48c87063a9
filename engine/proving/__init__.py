"""What maps do when they are really put elsewhere, and how far a datapath can be trusted. Imports torch."""
