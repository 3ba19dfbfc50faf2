"""The OpenAI-compatible server, at the path where vLLM has it."""
