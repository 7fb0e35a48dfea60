"""Speaking to a running machine."""
