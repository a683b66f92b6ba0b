"""A checkpoint on the Hub: its files as others may see them, a card that says how it was made, and where both go."""
