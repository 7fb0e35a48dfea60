"""What runs at night: images refreshed, patched, and rebuilt from nothing for comparison."""
