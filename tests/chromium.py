"""A headless Chromium for tests of pages, and for the benchmark of one."""

import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any


@contextmanager
def chromium(size: tuple[int, int], *arguments: str, logs: tuple[str, ...] = ()) -> Iterator[Any]:
    """Selenium's driver of Debian's Chromium, with a window of that size and all lines of these logs."""
    from selenium import webdriver

    options = webdriver.ChromeOptions()
    options.binary_location = shutil.which("chromium")
    window = f"--window-size={size[0]},{size[1]}"
    for argument in ("--headless=new", "--no-sandbox", "--disable-dev-shm-usage", window, *arguments):
        options.add_argument(argument)
    if logs:
        options.set_capability("goog:loggingPrefs", dict.fromkeys(logs, "ALL"))
    with webdriver.Chrome(options=options, service=webdriver.ChromeService(shutil.which("chromedriver"))) as driver:
        yield driver
