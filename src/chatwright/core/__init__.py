"""The nouns of the system and the few services every layer needs; knows nothing above it."""
