"""Groups of options: what a dataclass declares is what the command line offers, in its place."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated

import pytest
import typer

from pnp.cli.option_groups import with_option_groups


@dataclass(frozen=True)
class Size:
    width: Annotated[int, typer.Option("--width", "-w", help="Width.")]
    height: Annotated[int | None, typer.Option(help="Height.")] = None

    def __post_init__(self) -> None:
        if self.height == self.width:
            raise ValueError("--height must differ from --width")


def app(seen: list[object]) -> typer.Typer:
    found = typer.Typer(pretty_exceptions_enable=False)

    @found.command()
    @with_option_groups
    def draw(
        name: Annotated[str, typer.Argument(help="Name.")],
        *,
        dark: Annotated[bool, typer.Option("--dark", help="Dark.")] = False,
        size: Size,
        last: Annotated[str, typer.Option(help="Last.")] = "z",
    ) -> None:
        """Draw."""
        seen.extend((name, dark, size, last))

    return found


def call(*words: str) -> list[object]:
    seen: list[object] = []
    app(seen)(list(words), standalone_mode=False)
    return seen


def test_fields_are_options_with_their_defaults() -> None:
    assert call("a", "-w", "3") == ["a", False, Size(3, None), "z"]
    assert call("a", "--dark", "--width", "3", "--height", "4", "--last", "y") == ["a", True, Size(3, 4), "y"]


def test_fields_stand_where_the_group_stands() -> None:
    names = [parameter.name for parameter in typer.main.get_command(app([])).params]
    assert names[:5] == ["name", "dark", "width", "height", "last"]


def test_a_field_without_default_is_required_and_a_group_checks_itself() -> None:
    with pytest.raises(Exception, match="width"):
        call("a")
    with pytest.raises(ValueError, match="--height"):
        call("a", "-w", "3", "--height", "3")
