"""What a master carries as evidence: its packages, how it was made, what was proven, and who says so.

`write_evidence` writes it into a folder before the version exists; `judge` reads it later and names each fault.
"""
