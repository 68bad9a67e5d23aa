"""``python -m study.bench`` is ``study bench``."""

import sys

from study.cli import main

sys.exit(main(["bench", *sys.argv[1:]]))
