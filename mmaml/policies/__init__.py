"""Networks as functions of parameter values."""
