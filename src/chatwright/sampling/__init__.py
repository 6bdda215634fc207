"""Generation: for RL, evaluation and chat alike."""
