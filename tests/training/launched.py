"""One of several processes that `accelerate launch` starts: runs the stage, command by command.

Usage: launched.py COMMANDS, a JSON file with a list of argument lists.
"""

import json
import sys
from pathlib import Path

from lse_interp.finetune import main

if __name__ == "__main__":
    for arguments in json.loads(Path(sys.argv[1]).read_text(encoding="utf-8")):
        if status := main(arguments):
            sys.exit(status)
