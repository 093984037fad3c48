"""Built-in passes and forms, registered as entry points like a third party's."""

PIPELINE = "clean,fuse,clean"  # what optimize runs before it looks for lighter forms
