"""The script for launchers: `deepspeed caad_ds/train.py --config FILE`. From Python, use `caad_ds.train`."""

import sys

from caad_ds.training.train_command import main

if __name__ == "__main__":
    sys.exit(main())
