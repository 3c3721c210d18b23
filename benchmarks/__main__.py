"""Runs the benchmarks that need nothing but a device (`make bench`); `soak.py`, which takes minutes, is separate."""

from benchmarks import data_prep, loss, step, teacher_cache

if __name__ == "__main__":
    loss.main()
    print()
    step.main([])
    print()
    data_prep.main([])
    print()
    teacher_cache.main(["--gb", "2"])
