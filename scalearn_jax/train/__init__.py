"""The training engine; knows no run folder. Nothing is imported here: the command line needs `signals` without jax."""
