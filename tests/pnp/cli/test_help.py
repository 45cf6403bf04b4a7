"""Help of every command, in plain English, and `pnp info`."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any

import pytest
import typer
from command import run
from paths import ROOT

from operators import OPERATORS
from pnp.cli import app
from pnp.cli.options import OPERATOR_NAMES

UNCLEAR = re.compile(r"\b(goes? on|gone on|anew|a training|hears?|told|rungs?|guests?)\b|\bwhere there (is|are)\b|^Of ")


def commands(command: Any, name: str) -> Iterator[tuple[str, Any]]:
    """Yield every command with its name, groups as well."""
    yield name, command
    for word, inside in getattr(command, "commands", {}).items():
        yield from commands(inside, f"{name} {word}")


COMMANDS = dict(commands(typer.main.get_command(app), "pnp"))


@pytest.mark.parametrize("name", COMMANDS)
def test_help_stands_alone(name: str) -> None:
    command = COMMANDS[name]
    examples = command.help.partition("\b\n")[2]
    assert f"{name} " in examples or name == "pnp info", "an example"
    first = command.help.partition("\n")[0]
    assert first.endswith(".") and (len(first) < 57 or name == "pnp"), "whole in the list of commands"
    assert not UNCLEAR.search(command.help), UNCLEAR.search(command.help)
    for parameter in command.params:
        text = parameter.help
        assert text and text[0].isupper() and text.rstrip().endswith((".", "...")), (parameter.name, text)
        assert not UNCLEAR.search(text), (parameter.name, text)


def test_options_of_two_commands_with_one_name_have_one_help() -> None:
    """`reconstruct` and `reconstruct-stack` share all options but their files and --overwrite."""
    one, other = (
        {p.name: p.help for p in COMMANDS[f"pnp {name}"].params} for name in ("reconstruct", "reconstruct-stack")
    )
    shared = set(one) & set(other) - {"measurements", "output", "overwrite"}
    common = {
        "rings",
        "volume",
        "drift",
        "workers",
        "scheduler",
        "operator",
        "denoiser",
        "noise_std",
        "strength",
        "algorithm",
        "bounds",
        "robust",
        "max_iter",
        "device",
    }
    assert common == shared
    assert all(one[name] == other[name] for name in shared)


def test_reconstruct_names_all_operators() -> None:
    assert sorted(OPERATORS) == list(OPERATOR_NAMES)
    text = next(p.help for p in COMMANDS["pnp reconstruct"].params if p.name == "operator")
    assert re.findall(r"\w+", text.partition(":")[2]) == [*OPERATOR_NAMES[:-1], "or", OPERATOR_NAMES[-1]]


def test_info_lists_all_weights_with_their_terms(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(monkeypatch, "info") == 0
    lines = capsys.readouterr().out.splitlines()
    weights = {path.stem for package in ("pnp", "denoisers") for path in (ROOT / package).rglob("*.safetensors")}
    assert {"gray", "super_resolution", "lu177", "y90"} <= weights
    found = {
        line.partition(":")[2].partition(":")[0]: lines[k + 1]
        for k, line in enumerate(lines[:-1])
        if re.match(r"\w+:[\w-]+: ", line)
    }
    assert set(found) == weights
    assert all(re.search(r"BSD-3-Clause|BSDS500", terms) for terms in found.values()), found
