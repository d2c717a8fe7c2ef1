"""The revisions of the record store, oldest first by name."""
