"""How parameters change: losses, the inner step, the outer step."""
