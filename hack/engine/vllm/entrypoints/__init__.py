"""Entry points, at the paths where vLLM has them."""
