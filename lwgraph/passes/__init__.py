"""Built-in passes and forms, registered as entry points like a third party's."""

PIPELINE = "clean,fuse,clean"  # the passes that run before lighter forms are looked for
