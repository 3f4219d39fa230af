"""Plans compiled to torch modules."""
