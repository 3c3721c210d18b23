"""The benchmarks that need nothing but a device: `make bench`. `soak.py` beside them kills ranks, for minutes."""

from benchmarks import data_prep, loss, step, teacher_cache

if __name__ == "__main__":
    loss.main()
    print()
    step.main([])
    print()
    data_prep.main([])
    print()
    teacher_cache.main(["--gb", "2"])
