"""How faithful each method is: the same questions to all of them, each beside its controls. Imports torch."""
