"""Hugging Face models, the heads on top of them, and how they are read."""
