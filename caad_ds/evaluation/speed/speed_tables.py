"""Speed and size of systems, measured by `evaluate` and compared by `caad-ds speed`.

Only `caad-ds speed` measures systems in turns, so only it prints ratios; `compare` prints sizes, because its runs were
evaluated at different times under different load.

tokens_per_second   answer tokens, end tokens included, over the time from the encoder's states to the last token
first_token_ms      from the encoder's states to the batch's first tokens: connector and prompt
encoder_ms          from audio files to the encoder's states, including a contrast's second path
memory_mib          `weights`: memory of the parameters; `working`: peak above the memory allocated before

For other transformers models times start at the features: their encoder runs within the first token's time. Times are
`{median, low, high}` over batches; low and high are the quartiles.
"""

SIZE_LEGEND = (
    "memory: weights, encoder included, and the peak above them. Speeds of evaluations are of different moments and "
    "are not compared; `caad-ds speed` measures systems in turns."
)

SIZE = ("parameters M", "memory MiB")
FIGURES = ("tokens_per_second", "first_token_ms", "encoder_ms")


def speed_metrics(speed: dict) -> dict:
    """Return the `speed` of a system as nested metrics by batch size, medians as `value`; empty if not measured."""
    found = {key: speed[key] for key in ("parameters", "memory_mib") if key in speed}
    for run in speed.get("runs", ()):
        figures = {key: run[key] for key in FIGURES if key in run}
        found[f"batch_{run['batch_size']}"] = {
            key: {"value": figure["median"], "low": figure["low"], "high": figure["high"]}
            for key, figure in figures.items()
        }
    return found


def speed_rows(systems: dict[str, dict]) -> tuple[list[str], list[list[str]]]:
    """Return header and rows of size and speed from the `speed` of each system, all measured in turns.

    Tokens per second at each batch size, first-token time at the smallest; for several systems ratios to the first.
    """
    sizes = sorted({run["batch_size"] for speed in systems.values() for run in speed["runs"]})
    columns = [(f"tokens/s, batch {size}", size, "tokens_per_second") for size in sizes]
    columns.append((f"first token ms, batch {sizes[0]}", sizes[0], "first_token_ms"))
    with_encoder = any(_figure(speed, sizes[0], "encoder_ms") for speed in systems.values())
    ratio = len(systems) > 1
    header = ["system", *SIZE, *(name for title, *_ in columns for name in (title, *[f"x {title}"] * ratio))]
    header += [f"encoder ms, batch {sizes[0]}"] * with_encoder + ["device"]
    first = next(iter(systems.values()))
    rows = []
    for name, speed in systems.items():
        cells = _size(speed)
        for _, size, key in columns:
            figure, base = _figure(speed, size, key), _figure(first, size, key)
            cells.append(_cell(figure))
            if ratio:
                cells.append(f"{figure['median'] / base['median']:.2f}" if figure and base else "-")
        cells += [_cell(_figure(speed, sizes[0], "encoder_ms"))] * with_encoder
        rows.append([name, *cells, _where(speed)])
    return header, rows


def speed_legend(systems: dict[str, dict]) -> str:
    """Explain the columns of `speed_rows`."""
    ratios = "; x: against the first system" if len(systems) > 1 else ""
    return (
        f"Medians over batches; in brackets the quartiles{ratios}. tokens/s and first token: from the encoder's states "
        "on (of models of transformers: from the features on), the prompt included. "
        "memory: weights, encoder included, and the peak above them."
    )


def size_rows(systems: dict[str, dict]) -> tuple[list[str], list[list[str]]]:
    """Return header and rows of the sizes, which are always comparable, from the `speed` of each system."""
    return ["system", *SIZE, "device"], [[name, *_size(speed), _where(speed)] for name, speed in systems.items()]


def _size(speed: dict) -> list[str]:
    return [f"{speed['parameters']['total'] / 1e6:.4g}", _memory(speed["memory_mib"])]


def _figure(speed: dict, batch_size: int, key: str) -> dict | None:
    return next((run.get(key) for run in speed["runs"] if run["batch_size"] == batch_size), None)


def _cell(figure: dict | None) -> str:
    return "-" if figure is None else f"{_short(figure['median'])} [{_short(figure['low'])}, {_short(figure['high'])}]"


def _short(number: float) -> str:
    """Format with four significant digits, or all integer digits."""
    return f"{number:.4g}" if abs(number) < 9999.5 else f"{number:.0f}"


def _memory(mib: dict) -> str:
    return f"{mib['weights']:.4g} + {'?' if mib['working'] is None else format(mib['working'], '.4g')}"


def _where(speed: dict) -> str:
    threads = f", threads: {speed['threads']}" if "CPU" in speed["device"] else ""
    return f"{speed['device']}{threads}, {speed['dtype']}"
