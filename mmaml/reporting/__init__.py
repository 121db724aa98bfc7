"""What a run reports while it goes on: the log, its columns, the display."""
