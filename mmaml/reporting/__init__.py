"""What a run reports while it trains: the log, its columns, the display."""
