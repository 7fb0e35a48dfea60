"""The VHD format: footers, extents, and writing and reading of every kind; pure but for file I/O."""
