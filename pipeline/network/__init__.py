"""Namespaces, links and the way out of a guest."""
