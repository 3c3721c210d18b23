"""Compare evaluated systems: python -m examples.api.compare OUT RUN RUN ..."""

import sys

import caad_ds


def main(out: str, *runs: str) -> caad_ds.Comparison:
    """Compare run folders that `evaluate` wrote; `out` gets the table, the differences and the pictures."""
    found = caad_ds.compare(runs=runs, out=out)
    for name, groups in found.systems.items():
        print(f"{name}: {groups['all']['accuracy_neutral']['value']:.1%} right without a hint")
    return found


if __name__ == "__main__":
    main(*sys.argv[1:])
