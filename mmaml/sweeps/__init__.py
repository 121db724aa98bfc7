"""Many runs from one command: over seeds and values of keys, side by side here or as a job array of Slurm's."""
