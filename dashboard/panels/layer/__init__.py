"""The layer level: every feature map of a site as a tile."""
