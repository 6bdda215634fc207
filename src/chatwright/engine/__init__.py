"""Training backends: how a module takes an optimizer step, and nothing about algorithms."""
