"""Compare evaluated systems: python -m examples.api.compare OUT RUN RUN ..."""

import caad_ds


def main(out: str, *runs: str) -> caad_ds.Comparison:
    """Compare run folders that `evaluate` wrote; `out` gets the table, the differences and the pictures."""
    found = caad_ds.compare(runs=runs, out=out)
    for name, figures in found.columns.items():  # the benchmark decides which figures there are
        defined = [f"{label} {figure['value']:.3f}" for label, figure in figures.items() if figure["value"] is not None]
        print(f"{name}: {', '.join(defined)}")
    return found


if __name__ == "__main__":
    from examples.api.script import run

    run(main)
