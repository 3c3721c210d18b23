"""What `prep pseudo-gt` lets a user choose of an engine."""

from dataclasses import dataclass, field

from caad_ds.utils.errors import UserError
from data_prep.stage1.engines.settings import GenerationSettings

KEY_VARIABLE = "OPENAI_API_KEY"


@dataclass(frozen=True)
class Server:
    """A server with OpenAI's chat interface: its URL, the environment variable that holds its key, how many requests
    are under way at once, how often one that failed is tried again, and its limit in seconds."""

    base_url: str = ""
    key_variable: str = KEY_VARIABLE
    concurrency: int = 8
    retries: int = 8
    timeout: float = 120.0


@dataclass(frozen=True)
class EngineOptions:
    """The model, how it is asked, and how it is run; an engine reads of these what it has a use for.

    `model` is a hub id, a folder, or a name on the server. `dtype` and `device` "" are the engine's own choice.
    """

    model: str | None = None
    asking: GenerationSettings = field(default_factory=GenerationSettings)
    dtype: str = ""
    batch_size: int = 8
    device: str = ""
    tensor_parallel_size: int = 1
    server: Server = field(default_factory=Server)

    def needed_model(self, engine: str, kind: str = "hub id, folder or name of an instruct model") -> str:
        """The model; UserError, which says what `kind` of name is needed, where there is none."""
        if not self.model:
            raise UserError(f"--engine {engine}: it needs --model, the {kind}")
        return self.model

    def refuse_switches(self, engine: str) -> None:
        """Raise UserError where variables of the chat template are set, which the engine does not read."""
        if self.asking.switches:
            raise UserError(f"--template-switch: --engine {engine} does not read it; remove it")
