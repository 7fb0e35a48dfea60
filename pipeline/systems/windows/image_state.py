"""How far Windows Setup has come with an installation, as its registry says it. Microsoft: Windows Setup states."""

from __future__ import annotations

SETUP_STATE = r"SOFTWARE\Microsoft\Windows\CurrentVersion\Setup\State"
#: Sysprep has generalized it; the next start is a first boot.
GENERALIZED = "IMAGE_STATE_GENERALIZE_RESEAL_TO_OOBE"
