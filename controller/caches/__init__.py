"""What workers have in their prefix caches: vLLM's own account of it, related to the prompts' texts."""
