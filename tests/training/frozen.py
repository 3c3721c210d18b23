"""Imported last by the process that ranks are forked from: exempts its imports from garbage collection.

DeepSpeed collects garbage with each engine that it builds or releases, and would look at every object of every import:
up to a second for a run whose steps take as long.
"""

import gc

gc.collect()
gc.freeze()
