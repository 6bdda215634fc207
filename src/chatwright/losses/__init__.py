"""Pure functions of tensors: no model, no batch, no config, no mean."""
