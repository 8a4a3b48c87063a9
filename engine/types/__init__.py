"""The nouns of the product as frozen records: what is stored, asked for and shown. No torch."""
