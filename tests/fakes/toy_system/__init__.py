"""A toy operating system, as somebody would add one from a folder of their own: nothing in pipeline/ knows of it.

Its disk is one FAT file system with TOY/RELEASE (NAME, VERSION) and TOY/PACKAGES (a line of name and version each).
"""
