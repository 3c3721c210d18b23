"""The script that launchers start: `deepspeed caad_ds/train.py --config FILE`. From Python, `caad_ds.train` trains."""

import sys

from caad_ds.training.train import main

if __name__ == "__main__":
    sys.exit(main())
