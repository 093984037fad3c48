"""Public conformance kits for plugins: run them over your own passes and forms."""
