"""The configuration: its keys, the values they take, loading and checking it."""
