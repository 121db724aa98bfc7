"""The project's mpirun: starts Open MPI's, supervises the run, and leaves nothing of it behind.

Uses nothing but the standard library, and of this package nothing that needs more: it runs without site-packages.
"""
