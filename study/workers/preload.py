"""What workers on the CPU have imported when they are forked.

Only the process that they are forked from imports this module.
"""

import gc
import importlib

from study.config.environment import quieten

quieten()
for name in ("study.run.make", "study.run.evaluate", "study.run.train", "study.search.objectives"):
    importlib.import_module(name)
gc.collect()
gc.freeze()  # a collection in a worker would write to, and so copy, the pages that they share
