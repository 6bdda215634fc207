"""What a recipe's stage does: config and input artifacts to a directory."""
