"""From a policy and tasks to rollouts with advantages."""
