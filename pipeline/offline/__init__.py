"""Reading a disk that is not running: containers, partitions, files, packages; without mount, root or appliance."""

from pipeline.offline.disk import Disk, Volume, open_disk
from pipeline.offline.root import Root

__all__ = ["Disk", "Root", "Volume", "open_disk"]
