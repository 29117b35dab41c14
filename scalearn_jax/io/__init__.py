"""Reads and writes files; knows no model."""
