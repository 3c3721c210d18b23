"""Counts in printed lines."""


def counted(number: int, one: str, many: str | None = None) -> str:
    """The number and what it counts, such as "1 record"; `many` is the plural where it is not `one` with an s."""
    return f"{number} {one if number == 1 else many or one + 's'}"
