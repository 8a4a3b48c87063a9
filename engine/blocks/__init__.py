"""One block of an audit's images: the walk, the shard it leaves, and how fast it goes. Imports torch."""
