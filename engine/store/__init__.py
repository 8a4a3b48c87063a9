"""The store: models, data sets and results as files. No torch."""

from engine.store.files import NotStored, Shelf
from engine.store.store import Dataset, Store

__all__ = ["Dataset", "NotStored", "Shelf", "Store"]
