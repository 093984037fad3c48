"""What options cost: measured here or elsewhere, remembered, or counted."""
