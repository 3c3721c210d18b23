"""The section of a configuration that names the shards of a training."""

from pathlib import Path
from typing import Literal

from pydantic import Field, field_validator, model_validator

from caad_ds.config.section import Section, changed

STREAM_ONLY = ("shuffle_buffer",)


class DataSection(Section):
    """The shards, and how they are read."""

    train: str | list[str] = Field(..., description="folder of shards with index.json; addresses of tars for a stream")
    reader: Literal["indexed", "stream"] = Field(
        "indexed",
        description="indexed: a folder with its index; stream: tars from object stores or pipes, shuffled by rank",
    )
    shuffle_buffer: int = Field(1000, ge=1, description="samples in a rank's shuffle buffer (stream)")
    skip_broken: bool = Field(
        False,
        description="skip, count and list samples without a prompt and corrupt ones of a stream, instead of failing",
    )
    validation: Path | None = Field(None, description="folder of shards for the validation pass")
    group_by_audio: bool = Field(
        False, description="put prompts about one audio in one batch, so that it is encoded once"
    )
    max_answer_tokens: int = Field(300, ge=1, description="longer answers are truncated and counted")
    workers: int = Field(1, ge=1, description="threads per rank that make batches ahead, one step each")

    @field_validator("train")
    @classmethod
    def _plain(cls, train: str | list[str]) -> str | list[str]:
        """Normalize the spelling of a folder, which is part of a run's identity."""
        return train if isinstance(train, list) or ":" in train else Path(train).as_posix()

    @model_validator(mode="after")
    def _one_reader(self) -> "DataSection":
        if self.reader == "stream":
            if self.group_by_audio:
                raise ValueError("group_by_audio orders the data, which reader stream cannot; remove one of them")
            return self
        if unread := changed(self, STREAM_ONLY):
            raise ValueError(f"{', '.join(unread)}: belongs to reader stream; choose that, or remove it")
        if isinstance(self.train, list) or ":" in self.train or "{" in self.train:
            raise ValueError(f"train {self.train} is no folder; set reader: stream to read tars by their addresses")
        return self
