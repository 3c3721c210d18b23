"""The request of OpenAI's chat completions: its fields, and which of them are refused."""

from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from caad_ds.config.objective_section import ALPHA_GATES, NEGATIVES
from caad_ds.generation.decoding_settings import GATE_M, MAX_ALPHA, MIN_TEMPERATURE, NO_GATE, gate_fault
from caad_ds.serving.server.bounded_body import check_structure
from caad_ds.serving.server.refusals import Refused

LONGEST_TEXT = 100_000  # characters of all texts, which are tokenised before their number of tokens is known
MOST_MESSAGES = 100
# Fields that are not supported, with the value that has no effect; null and empty values have none either.
NEUTRAL: dict[str, Any] = {
    "audio": None, "frequency_penalty": 0, "function_call": "none", "functions": [], "logit_bias": {},
    "logprobs": False, "metadata": {}, "modalities": ["text"], "n": 1, "parallel_tool_calls": None, "prediction": None,
    "presence_penalty": 0, "reasoning_effort": None, "response_format": {"type": "text"}, "service_tier": None,
    "stop": [], "store": False, "tool_choice": "none", "tools": [], "top_logprobs": 0, "verbosity": None,
    "web_search_options": None,
}  # fmt: skip
OF_OTHERS = tuple(name for name in NEGATIVES if name != "shuffled")  # it takes the audio of other items


class _Strict(BaseModel):
    model_config = ConfigDict(extra="forbid", strict=True, frozen=True)

    @model_validator(mode="before")
    @classmethod
    def _without_nothing(cls, given: Any) -> Any:
        """Drop unknown fields with empty values: clients send the message of an earlier answer back unchanged."""
        if not isinstance(given, dict):
            return given
        return {name: value for name, value in given.items() if name in cls.model_fields or not _is_nothing(value)}


def _is_nothing(value: object) -> bool:
    return value is None or (isinstance(value, str | list | dict) and not value)


class TextPart(_Strict):
    """A text in a message."""

    type: Literal["text"]
    text: str = Field(max_length=LONGEST_TEXT)


class InputAudio(_Strict):
    """An audio file in base64; its format is detected from its content."""

    data: str
    format: str | None = Field(default=None, max_length=20)


class AudioPart(_Strict):
    """An audio clip in a message."""

    type: Literal["input_audio"]
    input_audio: InputAudio


Part = Annotated[TextPart | AudioPart, Field(discriminator="type")]


class Message(_Strict):
    """A turn of the conversation."""

    role: Literal["system", "developer", "user", "assistant"]
    content: Annotated[str, Field(max_length=LONGEST_TEXT)] | Annotated[list[Part], Field(max_length=MOST_MESSAGES)]

    @property
    def parts(self) -> list[Part]:
        """Return the parts of the content; a plain text is one part."""
        return [TextPart(type="text", text=self.content)] if isinstance(self.content, str) else self.content


class StreamOptions(_Strict):
    """Options of a stream."""

    include_usage: bool = False


class ChatRequest(BaseModel):
    """The supported fields; any other is in `model_extra`, and refused unless its value has no effect."""

    model_config = ConfigDict(extra="allow", strict=True, frozen=True)

    model: str = Field(max_length=1000)
    messages: list[Message] = Field(min_length=1, max_length=MOST_MESSAGES)
    stream: bool | None = None
    stream_options: StreamOptions | None = None
    max_tokens: int | None = Field(default=None, ge=1)
    max_completion_tokens: int | None = Field(default=None, ge=1)
    temperature: float | None = Field(default=None, ge=0, le=2, allow_inf_nan=False)
    top_p: float | None = Field(default=None, gt=0, le=1, allow_inf_nan=False)
    top_k: int | None = Field(default=None, ge=1)
    seed: int | None = Field(default=None, ge=-(2**63), lt=2**63)
    user: str | None = None  # it does not change an answer
    caad_alpha: float | None = Field(default=None, ge=0, le=MAX_ALPHA, allow_inf_nan=False)
    caad_negative: Literal[OF_OTHERS] | None = None  # type: ignore[valid-type]
    caad_plausibility: float | None = Field(default=None, gt=0, le=1, allow_inf_nan=False)
    caad_alpha_gate: Literal[ALPHA_GATES] | None = None  # type: ignore[valid-type]
    caad_gate_m: float | None = Field(default=None, gt=1, allow_inf_nan=False)
    caad_transcripts: list[str] | None = Field(default=None, max_length=MOST_MESSAGES)

    @property
    def sampled(self) -> bool:
        """Return whether the answer is sampled; a temperature near 0 is greedy, as clients use it."""
        return (self.temperature or 0) >= MIN_TEMPERATURE


def read_request(body: bytes) -> ChatRequest:
    """Parse a JSON body; Refused (400) if it is not a request, or uses what is not supported."""
    check_structure(body)
    try:
        request = ChatRequest.model_validate_json(body)
    except ValidationError as error:
        raise _refused(error) from None
    for name, value in (request.model_extra or {}).items():
        if _is_nothing(value):
            continue
        if name not in NEUTRAL:
            raise Refused(400, f"{name[:80]}: no such parameter here; leave it out", name[:80])
        if value != NEUTRAL[name] or isinstance(value, bool) != isinstance(NEUTRAL[name], bool):
            raise Refused(400, f"{name}: not supported here; leave it out", name)
    _check_length(request)
    _check_pairs(request)
    return request


def _check_length(request: ChatRequest) -> None:
    """Raise Refused if the texts together exceed LONGEST_TEXT."""
    said = [part.text for message in request.messages for part in message.parts if isinstance(part, TextPart)]
    if sum(map(len, [*said, *(request.caad_transcripts or [])])) > LONGEST_TEXT:
        raise Refused(
            400, f"messages: their texts have more than {LONGEST_TEXT:,} characters; shorten them", "messages"
        )


def _check_pairs(request: ChatRequest) -> None:
    """Raise Refused for a field that has no effect without another one, or contradicts one."""
    sampling = {"top_p": request.top_p not in (None, 1), "top_k": request.top_k is not None}
    contrast = {
        "caad_negative": request.caad_negative is not None,
        "caad_plausibility": request.caad_plausibility is not None,
    }
    contrasted = request.caad_alpha is not None
    for fields, useful, other in ((sampling, request.sampled, "temperature"), (contrast, contrasted, "caad_alpha")):
        alone = [name for name, given in fields.items() if given and not useful]
        if alone:
            raise Refused(400, f"{alone[0]}: does nothing without {other}; give that as well", alone[0])
    gate = gate_fault(request.caad_alpha, request.caad_alpha_gate or NO_GATE, request.caad_gate_m or GATE_M)
    if gate is not None:
        name, _, remedy = gate
        raise Refused(400, f"caad_{name}: {remedy}", f"caad_{name}")
    if request.stream_options is not None and not request.stream:
        raise Refused(400, "stream_options: belongs to a stream; give stream as well", "stream_options")
    lengths = {request.max_tokens, request.max_completion_tokens} - {None}
    if len(lengths) > 1:
        raise Refused(400, "max_tokens and max_completion_tokens differ; give one of them", "max_tokens")


def _refused(error: ValidationError) -> Refused:
    """Return the most deeply nested error, without the request's content."""
    faults = error.errors(include_url=False, include_input=False, include_context=False)
    deepest = max(faults, key=lambda fault: len(fault["loc"]))
    # Between the names of fields are those of the types that pydantic tried: `str`, `list[...]`, a part's tag.
    steps = [str(step) for step in deepest["loc"] if isinstance(step, int) or (step.isidentifier() and step != "str")]
    where = ".".join(step for step, before in zip(steps, ["", *steps]) if step != before)
    message = " ".join(deepest["msg"].split())[:200]
    return Refused(400, f"{where[:200]}: {message}" if where else message, where[:200] or None)
