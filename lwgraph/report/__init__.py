"""JSON and HTML reports."""
