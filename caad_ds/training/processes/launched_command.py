"""Run a command's work with a configuration on all ranks of a launch."""

from collections.abc import Callable
from typing import TYPE_CHECKING

from caad_ds.config.schema import Config
from caad_ds.training.checks.config_paths import check_inputs
from caad_ds.utils.errors import UserError
from caad_ds.utils.launch import is_alone, is_main
from caad_ds.utils.progress import Heartbeat

if TYPE_CHECKING:  # it takes seconds to import; a wrong path is reported before
    import torch


def on_ranks(read: Callable[[], Config], title: str, work: "Callable[[Config, torch.device, Heartbeat], int]") -> int:
    """Read and check a configuration, join the ranks, and do the `work`; return its exit status.

    A user error of one rank is raised on all. `title` replaces the run's name until there is a configuration.
    """
    cfg, mistake = None, None
    try:
        cfg = read()
        check_inputs(cfg)
    except UserError as error:
        if is_alone():
            raise  # before DeepSpeed is imported, which takes seconds and may compile
        mistake = error  # perhaps on this rank only: raised on all once they have met
    with Heartbeat(enabled=is_main()) as heartbeat:
        heartbeat.begin(f"{cfg.run.name if cfg else title}: starting")
        from caad_ds.training.processes import process_group
        from caad_ds.utils.ranks import noticed, raise_together

        device = process_group.start(heartbeat)
        try:
            with noticed():
                raise_together(mistake)
                assert cfg is not None  # else there is a mistake
                return work(cfg, device, heartbeat)
        finally:
            process_group.stop()
