"""Flax linen modules: bottleneck adapters, encoder blocks and heads."""
