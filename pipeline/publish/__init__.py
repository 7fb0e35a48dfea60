"""Publishing: a version of the gallery becomes blobs of a storage container, or files of a folder.

Blobs cannot be renamed, so each version has blobs of its own names, with its digest in them. An index, switched by
its ETag, is written last; readers follow only the index. An uploader is one class (`uploader.py`).
"""
