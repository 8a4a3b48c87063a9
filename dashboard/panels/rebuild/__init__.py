"""A damaged result of a run: named, and rebuilt from its shards on request."""
