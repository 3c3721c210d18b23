"""The console script: light, quiet, and with every command in its place."""

import importlib
import os
import subprocess
import sys

import pytest

from caad_ds import cli
from caad_ds.utils.errors import UserError


@pytest.mark.parametrize("name", cli.COMMANDS)
def test_every_command_is_where_the_table_says(name, capsys):
    module = importlib.import_module(cli.COMMANDS[name][0])
    assert callable(module.register) and callable(module.run)
    with pytest.raises(SystemExit) as ended:
        cli.main([*name.split(), "--help"])
    assert ended.value.code == 0 and f"usage: caad-ds {name}" in capsys.readouterr().out


def test_the_list_of_commands(capsys):
    assert cli.main([]) == 0
    listed = capsys.readouterr().out
    assert all(name in listed for name in cli.COMMANDS)
    assert cli.main(["prep", "nothing"]) == 2
    assert "unknown command 'prep nothing'" in capsys.readouterr().err


@pytest.fixture
def failing(monkeypatch):
    """A command whose `run` raises a UserError."""

    class Module:
        @staticmethod
        def register(parser):
            parser.add_argument("--x")

        @staticmethod
        def run(args):
            raise UserError("file.yaml: broken; fix it")

    monkeypatch.setitem(cli.COMMANDS, "train", ("failing", "fails"))
    monkeypatch.setitem(sys.modules, "failing", Module)


def test_a_users_mistake_is_one_line_and_status_2(failing, capsys):
    assert cli.main(["train"]) == 2
    assert capsys.readouterr().err == "caad-ds: error: file.yaml: broken; fix it\n"
    assert cli.main(["train", "--debug"]) == 2
    assert "Traceback" in capsys.readouterr().err


@pytest.mark.parametrize(("command", "said"), [
    ("report RUN --out o.html --embed-mb x", "--embed-mb: invalid megabytes value: 'x'"),
    ("prep pseudo-gt --temperature x", "--temperature: invalid at least 0 value: 'x'"),
])  # fmt: skip
def test_a_value_that_does_not_parse_is_reported_without_a_private_name(command, said, capsys, tmp_path):
    assert cli.main([str(tmp_path) if word == "RUN" else word for word in command.split()]) == 2
    assert said in capsys.readouterr().err


def test_only_the_main_rank_tells(failing, capsys, monkeypatch):
    monkeypatch.setenv("RANK", "1")
    assert cli.main(["train"]) == 2
    assert capsys.readouterr().err == ""


def test_libraries_are_silent(tmp_path):
    """Loading and saving weights, and DeepSpeed's import, print nothing once `quiet` was called."""
    script = f"""
from caad_ds.utils.quiet_libraries import quiet
quiet()
import deepspeed
from deepspeed.accelerator import get_accelerator
get_accelerator()
from transformers import AutoModelForCausalLM, LlamaConfig
small = LlamaConfig(vocab_size=8, hidden_size=8, intermediate_size=8, num_hidden_layers=1, num_attention_heads=1)
AutoModelForCausalLM.from_config(small).save_pretrained({str(tmp_path)!r})
AutoModelForCausalLM.from_pretrained({str(tmp_path)!r})
"""
    env = {k: v for k, v in os.environ.items() if k != "DS_ACCELERATOR"}
    ended = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, env=env, check=False)
    assert (ended.returncode, ended.stdout, ended.stderr) == (0, "", "")


def test_usage_and_the_nearest_command(capsys):
    assert cli.main(["prep", "--help"]) == 0
    assert "prep describe" in capsys.readouterr().out
    assert cli.main(["trian", "--config", "x"]) == 2
    assert "unknown command 'trian' (did you mean train?)" in capsys.readouterr().err
    assert cli.main(["prep", "descrbe"]) == 2
    assert "unknown command 'prep descrbe' (did you mean prep describe?)" in capsys.readouterr().err
