"""What everything stands on and what knows nothing of images: `qemu_img`; later errors, process, store, files."""
