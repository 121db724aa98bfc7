"""One HTML page about many runs: what they learned, how sure that is, how they differ, what they cost."""
