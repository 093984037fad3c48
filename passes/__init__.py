"""Built-in passes and forms, registered as entry points like a third party's."""
