"""The recipe: one YAML file that says what is trained on what, in which order."""
