"""Debian: its archive, its bootstrap."""
