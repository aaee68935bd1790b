"""A sweep: one recipe with some of its keys varied; see recipes/sweep.py."""

from typing import Annotated, Any, Literal

from pydantic import Field

from recipes.schema.base import Section


class SweepFile(Section):
    """The content of a sweep file."""

    name: str = Field(pattern=r"^[\w-][\w.-]*$", description="names the run directory")
    description: str = ""
    recipe: str | dict[str, Any] = Field(
        description="file of a recipe, or the recipe itself (without a name), which may have `extends`"
    )
    mode: Literal["one_at_a_time", "grid"] = Field(
        "one_at_a_time",
        description="vary one key at a time around the recipe's own values, or all combinations",
    )
    axes: dict[str, Annotated[list[Any], Field(min_length=1)]] = Field(
        {}, description="values of each dotted recipe key"
    )
    cells: dict[Annotated[str, Field(pattern=r"^[\w-][\w.-]*$")], dict[str, Any]] = Field(
        {}, description="further cells: dotted keys and values"
    )
