"""Where the project lies, and its command line."""

import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parent.parent


def command(*arguments: object, **options) -> subprocess.CompletedProcess:
    """Run the command line in a process of its own."""
    words = [sys.executable, "-m", "crossmorph", *map(str, arguments)]
    return subprocess.run(words, **{"capture_output": True, "text": True, "timeout": 120, **options})
