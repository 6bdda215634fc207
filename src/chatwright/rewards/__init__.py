"""A reward is any function from rollouts to numbers."""
