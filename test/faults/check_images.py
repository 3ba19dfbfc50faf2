"""For test/faults: reads each image below a pool anew, by the plug-in's own reader, which checks every hash.

python check_images.py POOL, with vllm/ on PYTHONPATH. One line of JSON: `whole` and `damaged`, paths below the pool.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path

from gthread.image_file import DAMAGED, open_image


def main(pool: Path) -> None:
    whole: list[str] = []
    damaged: list[str] = []
    for path in sorted(pool.glob("images/*/*.image")) + sorted(pool.glob("pods/*/*.image")):
        name = str(path.relative_to(pool))
        try:
            open_image(path).mapping.close()
            whole.append(name)
        except FileNotFoundError:
            continue  # evicted since it was listed
        except (OSError, ValueError) as error:
            damaged.append(f"{name}: {error}")
    notes = [f"{path.relative_to(pool)}: an engine found it damaged" for path in sorted(pool.glob(f"pods/*/*{DAMAGED}"))]
    print(json.dumps({"whole": whole, "damaged": damaged + notes}))


main(Path(sys.argv[1]))
