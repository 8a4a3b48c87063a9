"""The store: models, data sets and results as files. No torch."""

from engine.store.dataset import Dataset
from engine.store.shelf import NotStored, Shelf
from engine.store.store import Store

__all__ = ["Dataset", "NotStored", "Shelf", "Store"]
