"""Compare evaluated systems: python -m examples.api.compare OUT RUN RUN ..."""

import sys

import caad_ds


def main(out: str, *runs: str) -> None:
    """Write the table, the differences and the picture of run folders that `evaluate` wrote into `out`."""
    caad_ds.compare(runs=list(runs), out=out)


if __name__ == "__main__":
    main(*sys.argv[1:])
