"""Learning curves, trajectories and moving pictures."""
