"""What may be chosen by name: attacks with their threat models, scoring methods. No torch."""
