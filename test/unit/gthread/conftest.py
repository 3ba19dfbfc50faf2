"""The plug-in's package as vLLM finds it: on the path, not installed. Nothing here imports vLLM or torch."""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[3] / "vllm"))
