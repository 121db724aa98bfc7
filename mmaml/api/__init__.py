"""Training from a Python program: in its own process, or on several ranks."""
