"""Whether DeepSpeed's operator for NVMe can be compiled here."""

import pytest
from deepspeed.accelerator import get_accelerator

COMPILED = 1200  # s: DeepSpeed's operator may have to be compiled first, 6 minutes where three others want two cores
needs_nvme = pytest.mark.skipif(
    not get_accelerator().create_op_builder("AsyncIOBuilder").is_compatible(verbose=False),
    reason="libaio-dev is not installed, which DeepSpeed's NVMe operator is compiled with",
)
