"""Counts and sizes in printed lines."""


def counted(number: int, one: str, many: str | None = None) -> str:
    """The number and what it counts, such as "1 record"; `many` is the plural where it is not `one` with an s."""
    return f"{number} {one if number == 1 else many or one + 's'}"


def gigabytes(size: float) -> str:
    """Bytes in GB, as `short` has them."""
    return short(size / 1e9)


def short(value: float) -> str:
    """A number with two decimals or, below 0.1, two digits."""
    return f"{value:.2f}" if value >= 0.1 or not value else f"{value:.2g}"
