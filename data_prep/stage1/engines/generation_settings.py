"""Prompts and sampling of Stage 1: a text LLM gets the seed description in place of the audio (CAAD), an audio LM the
audio."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from caad_ds.data.instructions import ATTRIBUTE
from caad_ds.data.record import Message, Record
from caad_ds.utils.errors import UserError
from data_prep.common.hashing import digest
from data_prep.common.prompt_metadata import prompt_of
from data_prep.stage1.textual_messages import textual_messages

if TYPE_CHECKING:  # it imports PyTorch
    from caad_ds.generation.sampling import Sampling

# For questions about an attribute: without an example a small LLM rambles or names any option (docs/tutorial.md). The
# example uses attributes that are unlikely to be asked about, since small LLMs repeat its values.
SYSTEM = (
    "Answer in one short sentence from the attributes in parentheses. For example, (Age: old, Accent: Welsh, Place: "
    "hall) gives: The speaker is old. The accent is Welsh. The place is a hall."
)


@dataclass(frozen=True)
class GenerationSettings:
    """System prompt, length limit of an answer, sampling, and use of the chat template.

    `system` None is SYSTEM for a text LLM's questions about an attribute, otherwise no system prompt; "" is none.
    `temperature` 0 is greedy, `top_p` the cumulative probability of nucleus sampling. `merge_system` puts the system
    prompt into the first user turn; `switches` are variables of the chat template.
    """

    system: str | None = None
    max_new_tokens: int = 128
    temperature: float = 0.0
    top_p: float = 1.0
    seed: int = 0
    merge_system: bool = False
    switches: Mapping[str, Any] = field(default_factory=dict)

    def content(self, system: str | None = SYSTEM) -> dict[str, Any]:
        """Return the settings to store with an output; `system` is the engine's default for None."""
        content: dict[str, Any] = {"system": system if self.system is None else self.system}
        content |= {"max_new_tokens": self.max_new_tokens, "temperature": self.temperature}
        content |= {"merge_system": True} if self.merge_system else {}
        content |= {"template_switches": dict(self.switches)} if self.switches else {}
        return content | ({"top_p": self.top_p, "seed": self.seed} if self.temperature else {})

    def messages(self, record: Record) -> list[Message]:
        """Return the chat for a text LLM; UserError if the record cannot be asked about."""
        default = SYSTEM if prompt_of(record).get("kind") == ATTRIBUTE else ""
        return self._after_system(default if self.system is None else self.system, textual_messages(record))

    def spoken(self, record: Record) -> list[Message]:
        """Return the chat for an audio LM: the record's own messages; UserError if it has none."""
        prompt_of(record)
        if not (messages := record.get("messages")):
            raise UserError("it has no messages; run `caad-ds prep describe` first")
        return self._after_system(self.system or "", messages)

    def _after_system(self, system: str, messages: list[Message]) -> list[Message]:
        first: list[Message] = [{"role": "system", "content": system}] if system else []
        chat = [*first, *messages]
        if self.merge_system and len(chat) > 1 and [turn["role"] for turn in chat[:2]] == ["system", "user"]:
            return [{"role": "user", "content": f"{chat[0]['content']}\n\n{chat[1]['content']}"}, *chat[2:]]
        return chat

    def sampling(self) -> "Sampling | None":
        """Return the sampling of in-process engines, by `seed` and record id; None if greedy."""
        from caad_ds.generation.sampling import Sampling

        return Sampling(self.temperature, self.top_p, seed=self.seed) if self.temperature else None

    def seed_of(self, identity: str) -> int:
        """Return a 31-bit seed per record for other engines: its answer does not depend on earlier ones."""
        return int.from_bytes(digest(f"{self.seed}/{identity}")[:4], "big") >> 1

    @property
    def truncated(self) -> str:
        """Return the reason for rejecting a truncated answer."""
        return f"truncated: it did not end within {self.max_new_tokens} tokens"
