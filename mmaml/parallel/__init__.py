"""The ranks of a run: messages between them, work dealt to them, signals, starting them."""
