"""Integers to bytes and back. Only integers cross from a model to a coder, so every machine decodes the same."""
