"""Corpora that CI runs a rotating tenth of, and `make campaign-NAME` runs whole."""
