"""`python -m caad_ds`: the console script."""

import sys

from caad_ds.cli import main

if __name__ == "__main__":
    sys.exit(main())
