"""The field kit: what users run where this project has no machine: on a host with KVM, with Windows media, on Azure.

Each run leaves one archive, redacted and signed, which `tests/unit/field` replays as a test. docs/field-kit.md.
"""
