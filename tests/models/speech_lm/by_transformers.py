"""What transformers answers by a model folder, where there is no package of this project: `FOLDER REQUESTS OUT`.

Requests are a JSON list of chats; out come, for each, the prompt's ids and the answer's by pipeline and by AutoModel,
the answers of all as one batch, and what was imported. It imports nothing of this project.
"""

import json
import sys

ABSENT = ("caad_ds", "data_prep", "deepspeed", "peft", "mlflow", "sentencepiece", "tests")
LONGEST = 12  # tokens of an answer


def answers(folder: str, chats: list) -> dict:
    """Return the ids of all three ways, in float32: in bf16, ties depend on the batch and the process."""
    import torch
    from transformers import AutoModel, AutoProcessor, pipeline

    ask = pipeline("any-to-any", model=folder, trust_remote_code=True, dtype=torch.float32)
    model = AutoModel.from_pretrained(folder, trust_remote_code=True, dtype=torch.float32)
    processor = AutoProcessor.from_pretrained(folder, trust_remote_code=True)
    options = {"tokenize": True, "add_generation_prompt": True, "return_dict": True, "return_tensors": "pt"}

    def written(chat: list) -> tuple[list, list[list[int]]]:
        inputs = processor.apply_chat_template(chat, **options)
        ids = model.generate(**inputs, max_new_tokens=LONGEST)
        return inputs["input_ids"].tolist(), ids[:, inputs["input_ids"].shape[1] :].tolist()

    each = []
    for chat in chats:
        [prompt], [auto] = written(chat)
        [made] = ask(chat, max_new_tokens=LONGEST, return_tensors=True)
        [said] = ask(chat, max_new_tokens=LONGEST, return_full_text=False)
        whole = made["generated_token_ids"].tolist()
        assert whole[: len(prompt)] == prompt
        each.append({"pipeline": whole[len(prompt) :], "auto": auto, "text": said["generated_text"]})
    own = AutoModel.from_pretrained(folder, trust_remote_code=True)  # in the dtype of its weights
    own.generate(**processor.apply_chat_template(chats[0], **options), max_new_tokens=2)
    return {"each": each, "batch": written(chats)[1], "dtype": str(own.dtype)}


def main(requests: str, out: str) -> None:
    """Answer all, a folder that is refused by its message."""
    found = {}
    with open(requests) as file:
        asked = json.load(file)
    for folder, chats in asked.items():
        try:
            found[folder] = answers(folder, chats)
        except ValueError as error:
            found[folder] = {"refused": str(error)}
    with open(out, "w") as file:
        json.dump(found, file)


if __name__ == "__main__":
    sys.modules |= dict.fromkeys(ABSENT)  # importing one of them raises ImportError
    main(*sys.argv[1:])
