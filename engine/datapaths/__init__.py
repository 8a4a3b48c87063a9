"""Datapaths: scores of feature maps, the sets chosen by them, and the real trials that say what those carry. Imports torch."""
