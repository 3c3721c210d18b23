"""All benchmarks with their tables: `make bench`."""

from benchmarks import loss

if __name__ == "__main__":
    loss.main()
