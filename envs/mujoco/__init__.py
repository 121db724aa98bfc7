"""Task families on MuJoCo's physics. `envs.mujoco.base` holds what they have in common."""
