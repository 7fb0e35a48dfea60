"""Alpine Linux: apk, OpenRC, mkinitfs; programs of busybox."""
