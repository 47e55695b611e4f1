"""Tokens that workers hold in their KV caches, and admission by them."""
