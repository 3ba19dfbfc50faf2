"""A simulated vLLM: the HTTP and the memory habits of vLLM 0.32 without a model. See hack/engine/README.md."""

__version__ = "0.32.0"
