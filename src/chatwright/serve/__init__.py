"""Serving: an OpenAI-compatible server, its store, and A/B tests."""
