"""What the parts cost, against plain passes and against captum, as ratios measured in one run. Imports torch."""
