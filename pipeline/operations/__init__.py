"""Operations on an instance that depend on its operating system: one verb for each module."""
