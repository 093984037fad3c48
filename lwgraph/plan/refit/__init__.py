"""The sequential refit: layers fitted, in order, to what the original gave, from what they see now."""
