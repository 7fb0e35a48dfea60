"""What a master carries as evidence: what is in it, how it was made, what was proven, and who says so.

`seal` writes it into a version's folder before the version exists; `judge` says later what of it no longer holds.
"""
