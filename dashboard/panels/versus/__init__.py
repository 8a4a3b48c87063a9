"""Candidate against baseline inside one run: images that changed side, layers beside each other, feature maps matched."""
