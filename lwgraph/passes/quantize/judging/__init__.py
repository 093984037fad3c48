"""What integers cost a network, and which layers are worth it."""
