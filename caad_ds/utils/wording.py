"""Counts and sizes in printed lines."""


def counted(number: int, one: str, many: str | None = None) -> str:
    """The number and what it counts, such as "1 record"; `many` is the plural where it is not `one` with an s."""
    return f"{number} {one if number == 1 else many or one + 's'}"


def gigabytes(size: float) -> str:
    """Bytes in GB, with two decimals or, of less than 0.1 GB, two digits."""
    return f"{size / 1e9:.2f}" if size >= 1e8 or not size else f"{size / 1e9:.2g}"
