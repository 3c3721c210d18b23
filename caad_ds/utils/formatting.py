"""Format counts and sizes in printed lines."""


def counted(number: int, one: str, many: str | None = None) -> str:
    """Return a number with its noun, such as "1 record"; `many` is the plural if it is not `one` with an s."""
    return f"{number} {one if number == 1 else many or one + 's'}"


def gigabytes(size: float) -> str:
    """Format bytes in GB, with `short`."""
    return short(size / 1e9)


def short(value: float) -> str:
    """Format a number with two decimals or, below 0.1, two digits."""
    return f"{value:.2f}" if value >= 0.1 or not value else f"{value:.2g}"
