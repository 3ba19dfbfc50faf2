"""`python3 -m vllm.entrypoints.openai.api_server`: reads flags, claims memory, boots, serves."""

import sys

from vllm.simulated.server import main

if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
