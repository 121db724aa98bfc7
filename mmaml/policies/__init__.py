"""Policies and the networks they are made of, as functions of parameter values."""
