"""``python -m study.cli`` is ``study``."""

import sys

from study.cli import main

sys.exit(main())
