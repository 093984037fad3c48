"""Plans: reading and writing, prices, searches, refits, and carrying them out."""
