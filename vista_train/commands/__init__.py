"""What `vista-train` can do beside training and preview: a module a command, with `describe` and `run`."""
