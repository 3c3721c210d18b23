"""An LLM judge as a further matching rule, via an OpenAI-compatible endpoint; verdicts are saved in `judge.jsonl`."""

import argparse
import hashlib
import json
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

from caad_ds.evaluation.scoring.normalization import words
from caad_ds.generation.chat_client import (
    ChatClient,
    ChatError,
    NoCompletion,
    RequestRefused,
    check_installed,
    is_url,
    key_of,
)
from caad_ds.tracking.secrets import hide_secrets
from caad_ds.utils.command import positive
from caad_ds.utils.errors import UserError
from caad_ds.utils.files import disk_errors, drop_cut_line, to_line
from caad_ds.utils.progress import progress
from caad_ds.utils.text import read_lines

PROMPT = """Question about an audio clip: {question}
Reference answer: {gt}
Given answer: {prediction}

Does the given answer mean the same as the reference answer? An answer that names several alternatives does not. \
Reply with one word, Yes or No."""


@dataclass(frozen=True)
class Judge:
    """A model behind an endpoint, and the file of its verdicts."""

    model: str
    base_url: str
    key: str
    concurrency: int
    file: Path

    @staticmethod
    def of(
        base_url: str | None, model: str | None, api_key_env: str | None, concurrency: int, folder: Path
    ) -> "Judge | None":
        """Return the configured judge, or None; raises UserError if a part of it, or `openai`, is missing."""
        if base_url is None and model is None:
            return None
        if base_url is None or model is None:
            raise UserError("--judge-base-url and --judge-model belong together; give both")
        key = "" if api_key_env is None else key_of(api_key_env, "--judge-api-key-env")
        if api_key_env is not None and not key:
            raise UserError(f"--judge-api-key-env {api_key_env}: that variable is not set; export the key in it")
        if not is_url(base_url):  # not printed: any part of an invalid URL may be secret
            raise UserError("--judge-base-url: no URL; give one such as https://host/v1, a / in a password as %2F")
        check_installed("an LLM judge")
        return Judge(model, base_url, key, concurrency, folder / "judge.jsonl")

    def verdicts(self, answers: Iterable[tuple[str, str, str]]) -> list[bool | None]:
        """Return whether each (question, gt, prediction) is right; None if the judge said neither yes nor no.

        Verdicts in the file are not requested again. Raises UserError if the endpoint fails; verdicts so far are kept.
        """
        prompts = [PROMPT.format(question=question, gt=gt, prediction=text) for question, gt, text in answers]
        known = self._known()
        missing = {self._hash(prompt): prompt for prompt in prompts if self._hash(prompt) not in known}
        if missing:
            with progress(f"asking {self.model}", len(missing)) as advance, disk_errors(self.file.parent):
                with open(self.file, "ab") as file:
                    for name, reply in self._replies(missing.items()):
                        known[name] = _verdict(reply) if reply is not None else None
                        if reply is not None:
                            line = {"key": name, "model": self.model, "verdict": known[name], "reply": reply}
                            file.write(to_line(line))
                            file.flush()
                        advance(1)
        return [known[self._hash(prompt)] for prompt in prompts]

    def _hash(self, prompt: str) -> str:
        return hashlib.sha256(json.dumps([self.model, prompt]).encode()).hexdigest()

    def _known(self) -> dict[str, bool | None]:
        if not self.file.is_file():
            return {}
        drop_cut_line(self.file)
        try:
            kept = [json.loads(line) for _, line in read_lines(self.file)]
            return {line["key"]: line["verdict"] for line in kept}
        except (ValueError, KeyError, TypeError) as error:
            raise UserError(f"{self.file}: cannot be read ({error}); delete it, and all is judged again") from error

    def _replies(self, prompts: Iterable[tuple[str, str]]) -> Iterator[tuple[str, str | None]]:
        """Yield hash and reply of each prompt as they arrive; None for a prompt that the endpoint refuses."""
        client = ChatClient(self.model, self.base_url, self.key)

        async def ask(named: tuple[str, str]) -> tuple[str, str | None]:
            name, prompt = named
            try:
                reply = await client.reply(messages=[{"role": "user", "content": prompt}], temperature=0)
            except RequestRefused:
                return name, None
            return name, reply.text

        try:
            yield from client.each(ask, prompts, self.concurrency)
        except NoCompletion as error:
            raise self._failed("its reply is no chat completion; does the URL end in /v1?") from error
        except ChatError as error:
            raise self._failed(str(error)) from error

    def _failed(self, reason: str) -> UserError:
        url = hide_secrets(self.base_url)
        return UserError(f"--judge-base-url {url}: {reason}; the verdicts so far are kept, run it again")


def add_judge_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the options of the LLM judge."""
    parser.add_argument("--judge-base-url", metavar="URL", help="OpenAI-compatible endpoint of an LLM judge")
    parser.add_argument("--judge-model", metavar="NAME", help="name of the judge model at that endpoint")
    parser.add_argument("--judge-api-key-env", metavar="VAR", help="environment variable with the endpoint's API key")
    parser.add_argument(
        "--judge-concurrency",
        type=positive,
        default=8,
        metavar="N",
        help="concurrent requests to the judge (default 8)",
    )


def _verdict(reply: str) -> bool | None:
    """Return whether the reply says yes; None unless it has exactly one of yes and no."""
    answers = {"yes", "no"} & set(words(reply))
    return None if len(answers) != 1 else answers == {"yes"}
