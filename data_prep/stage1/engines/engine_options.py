"""The engine options of `prep pseudo-gt`."""

from dataclasses import dataclass, field

from caad_ds.utils.errors import UserError
from data_prep.stage1.engines.generation_settings import GenerationSettings

KEY_VARIABLE = "OPENAI_API_KEY"


@dataclass(frozen=True)
class Server:
    """A server with OpenAI's chat interface: URL, environment variable with its key, concurrent requests, retries of a
    failed one, and the timeout in seconds."""

    base_url: str = ""
    key_variable: str = KEY_VARIABLE
    concurrency: int = 8
    retries: int = 8
    timeout: float = 120.0


@dataclass(frozen=True)
class EngineOptions:
    """The model, the generation settings and how to run it; an engine reads the options that it supports.

    `model` is a hub id, a folder, or a name on the server. "" for `dtype` and `device` is the engine's default.
    """

    model: str | None = None
    generation: GenerationSettings = field(default_factory=GenerationSettings)
    dtype: str = ""
    batch_size: int = 8
    device: str = ""
    tensor_parallel_size: int = 1
    server: Server = field(default_factory=Server)

    def needed_model(self, engine: str, kind: str = "hub id, folder or name of an instruct model") -> str:
        """Return the model; without one, UserError says what `kind` of name is needed."""
        if not self.model:
            raise UserError(f"--engine {engine}: it needs --model, the {kind}")
        return self.model

    def refuse_switches(self, engine: str) -> None:
        """Raise UserError if variables of the chat template are set, for an engine that does not read them."""
        if self.generation.switches:
            raise UserError(f"--template-switch: --engine {engine} does not read it; remove it")
