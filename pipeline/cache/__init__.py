"""Layers by the digest of what they are made from, and digests of disks."""
