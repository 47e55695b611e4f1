"""Speaking to an OpenAI-compatible server: pooled streaming HTTP client, SSE, vLLM's endpoints and metrics. A leaf."""
