"""One feature map."""
