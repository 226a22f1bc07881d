"""Tokens, principals, policies and rules: who may see what."""
