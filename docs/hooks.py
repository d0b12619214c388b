"""MkDocs hook: writes the generated parts of the reference pages from the code.

A page contains a line such as ``<!-- generated: cli -->``. It is replaced when the site is built.
"""

import re
import subprocess
import sys
import types
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any, Literal, Union, get_args, get_origin

from fastapi import FastAPI
from pydantic.fields import FieldInfo

from dualpath.recipes.base import StrictModel
from dualpath.recipes.encoders import ImageEncoderRecipe, TextEncoderRecipe
from dualpath.recipes.loading import read_recipe, shipped_recipes
from dualpath.recipes.preprocessing import PreprocessingRecipe
from dualpath.recipes.schema import ExpectedRecipe, Recipe, SplitRecipe
from dualpath.recipes.stages import (
    ClassifierRecipe,
    ContrastiveLossRecipe,
    DistillationRecipe,
    InstanceLossRecipe,
    OptimizerRecipe,
    RankingLossRecipe,
    ScheduleRecipe,
    StageRecipe,
)
from dualpath.server.routes import items, probes, searching

# The part of a recipe that a key leads to, in the order of the page.
RECIPE_PARTS: dict[str, type[StrictModel]] = {
    "Top level": Recipe,
    "image_encoder": ImageEncoderRecipe,
    "image_encoder.preprocessing": PreprocessingRecipe,
    "text_encoder": TextEncoderRecipe,
    "classifier": ClassifierRecipe,
    "stages": StageRecipe,
    "stages.instance": InstanceLossRecipe,
    "stages.ranking": RankingLossRecipe,
    "stages.contrastive": ContrastiveLossRecipe,
    "stages.distillation": DistillationRecipe,
    "stages.optimizer": OptimizerRecipe,
    "stages.schedule": ScheduleRecipe,
    "split": SplitRecipe,
    "expected": ExpectedRecipe,
}
_TYPE_NAMES = {bool: "true or false", int: "integer", float: "number", str: "text", Path: "path"}
_BOUNDS = {"ge": "≥", "gt": ">", "le": "≤", "lt": "<"}
_MARKER = re.compile(r"^<!-- generated: ([a-z-]+) -->$", re.MULTILINE)


def on_page_markdown(markdown: str, **_: Any) -> str:
    """Replace the markers of a page; MkDocs calls this function."""
    return _MARKER.sub(lambda match: GENERATORS[match[1]](), markdown)


def cli_reference() -> str:
    """Return a section for each command, as Typer writes it."""
    command = [sys.executable, "-m", "typer", "dualpath.cli.main", "utils", "docs"]
    done = subprocess.run(
        [*command, "--name", "dualpath"], capture_output=True, text=True, check=True, timeout=120
    )
    _, _, text = done.stdout.partition("\n")  # the page has a title of its own
    text = re.sub(r"^\* `--help`: .*\n", "", text, flags=re.MULTILINE)
    text = re.sub(r"^\*\*Options\*\*:\n\n(?!\*)", "", text, flags=re.MULTILINE)
    # The lists of subcommands cut their descriptions off; each has a section of its own.
    text = re.sub(r"^\*\*Commands\*\*:\n\n(\* .*\n)+", "", text, flags=re.MULTILINE)
    return re.sub(r"^#+ `(.*)`$", _command_heading, text, flags=re.MULTILINE)


def http_reference() -> str:
    """Return a section for each route, then the fields of each JSON object."""
    app = FastAPI()
    for router in (searching, items, probes):
        app.include_router(router, prefix="/v1")
    document = app.openapi()
    routes = [
        _route_section(method.upper(), path, route, document)
        for path, methods in document["paths"].items()
        for method, route in methods.items()
    ]
    schemas = document["components"]["schemas"]
    objects = [
        _object_section(name, schema)
        for name, schema in schemas.items()
        if not name.startswith(("Body_", "HTTPValidationError", "ValidationError"))
    ]
    return "\n\n".join([*routes, "## JSON objects", *objects])


def recipe_keys() -> str:
    """Return a section for each part of a recipe, with a table of its keys."""
    return "\n\n".join(_recipe_section(key, model) for key, model in RECIPE_PARTS.items())


def recipe_list() -> str:
    """Return a table of the recipes that ship with the package."""
    rows = [[f"`{name}`", read_recipe(name).description] for name in shipped_recipes()]
    return _table(["recipe", "description"], rows)


GENERATORS: dict[str, Callable[[], str]] = {
    "cli": cli_reference,
    "http": http_reference,
    "recipe-keys": recipe_keys,
    "recipe-list": recipe_list,
}


def _command_heading(match: re.Match[str]) -> str:
    """Return the heading of a command; subcommands are one level below their group."""
    command = match[1]
    level = 2 if command.count(" ") < 2 else 3
    return f"{'#' * level} {command}"


def _route_section(method: str, path: str, route: dict[str, Any], document: dict[str, Any]) -> str:
    parts = [f"## {method} {path}", route.get("description") or route["summary"]]
    rows = [
        [f"`{p['name']}`", p["in"], _json_type(p["schema"]), _json_default(p), _described(p)]
        for p in route.get("parameters", [])
    ]
    for content, body in route.get("requestBody", {}).get("content", {}).items():
        schema = document["components"]["schemas"][_schema_name(body["schema"])]
        place = "form" if content == "multipart/form-data" else "JSON body"
        required = schema.get("required", [])
        rows += [
            [
                f"`{name}`",
                place,
                _json_type(field),
                "required" if name in required else _json_default({"schema": field}),
                _described(field),
            ]
            for name, field in schema["properties"].items()
        ]
    if rows:
        header = ["parameter", "in", "type", "default", "description"]
        parts.append(_table(header, rows))
    parts.append("Responses: " + "; ".join(_responses(route["responses"])) + ".")
    return "\n\n".join(parts)


def _responses(responses: dict[str, Any]) -> Iterator[str]:
    errors = []
    for status, response in responses.items():
        content = response.get("content", {})
        kind, body = next(iter(content.items()), ("", dict[str, Any]()))
        name = _schema_name(body.get("schema", {}))
        if int(status) >= 400:
            errors.append(status)
        elif name:
            yield f"{status} [`{name}`](#{name.lower()})"
        else:
            yield f"{status} `{kind}`" if kind else status
    if errors:
        yield f"{', '.join(errors)} [`ErrorResponse`](#errorresponse)"


def _object_section(name: str, schema: dict[str, Any]) -> str:
    rows = [[f"`{key}`", _json_type(field)] for key, field in schema["properties"].items()]
    return "\n\n".join(
        [
            f"### {name} {{ #{name.lower()} }}",
            _inline_code(schema.get("description", "")),
            _table(["field", "type"], rows),
        ]
    )


def _schema_name(schema: dict[str, Any]) -> str:
    return str(schema.get("$ref", "")).rsplit("/", 1)[-1]


def _json_type(schema: dict[str, Any]) -> str:
    if "$ref" in schema:
        name = _schema_name(schema)
        return f"[`{name}`](#{name.lower()})"
    if "anyOf" in schema:
        return " or ".join(dict.fromkeys(map(_json_type, schema["anyOf"])))
    if schema.get("format") == "binary" or "contentMediaType" in schema:
        return "file"
    kind = str(schema.get("type", "any"))
    if kind == "array":
        return f"list of {_json_type(schema['items'])}"
    low, high = schema.get("minimum"), schema.get("maximum")
    limits = [f"{low:g} to {high:g}"] if low is not None and high is not None else []
    if "maxLength" in schema:
        limits.append(f"at most {schema['maxLength']:,} characters")
    if "pattern" in schema:
        limits.append(f"`{schema['pattern']}`")
    return ", ".join([{"null": "null"}.get(kind, kind), *limits])


def _json_default(parameter: dict[str, Any]) -> str:
    default = parameter["schema"].get("default")
    if default is not None:
        return f"`{default}`"
    return "required" if parameter.get("required") else ""


def _described(parameter: dict[str, Any]) -> str:
    return str(parameter.get("description") or parameter.get("schema", {}).get("description", ""))


def _recipe_section(key: str, model: type[StrictModel]) -> str:
    descriptions = attribute_docs(model)
    rows = [
        [
            f"`{name}`",
            _field_type(field),
            _field_default(field),
            _part_summary(field.annotation) or descriptions.get(name, ""),
        ]
        for name, field in model.model_fields.items()
    ]
    heading = key if key == "Top level" else f"`{key}`"
    header = ["key", "value", "default", "description"]
    return "\n\n".join(
        [
            f"## {heading} {{ #{_recipe_anchor(model)} }}",
            _inline_code(_summary(model)),
            _table(header, rows),
        ]
    )


def attribute_docs(model: type[StrictModel]) -> dict[str, str]:
    """Return the descriptions of fields in the section ``Attributes:`` of a docstring.

    Several fields may share a line, as in ``lr: learning rate. momentum: of sgd.``, or a
    description, as in ``mean, std: of RGB.``.
    """
    _, _, section = (model.__doc__ or "").partition("Attributes:")
    field = "(?:" + "|".join(model.model_fields) + ")"
    marks = list(re.finditer(rf"(?:^\s*|(?<=\. ))({field}(?:, {field})*): ", section, re.MULTILINE))
    ends = [mark.start() for mark in marks[1:]] + [len(section)]
    return {
        name: _inline_code(_sentence(section[mark.end() : end]))
        for mark, end in zip(marks, ends, strict=False)
        for name in mark[1].split(", ")
    }


def _part_summary(annotation: Any) -> str:
    """Return the summary of the part of a recipe that a key leads to; otherwise nothing."""
    for part in (annotation, *get_args(annotation)):
        if isinstance(part, type) and issubclass(part, StrictModel):
            return _inline_code(_summary(part))
    return ""


def _summary(model: type[StrictModel]) -> str:
    return " ".join((model.__doc__ or "").partition("Attributes:")[0].split())


def _sentence(text: str) -> str:
    text = " ".join(text.split())
    return text if text.startswith("of ") else text[:1].upper() + text[1:]


def _recipe_anchor(model: type) -> str:
    return model.__name__.lower()


def _field_type(field: FieldInfo) -> str:
    bounds = [
        f"{symbol} {getattr(constraint, name):g}"
        for constraint in field.metadata
        for name, symbol in _BOUNDS.items()
        if getattr(constraint, name, None) is not None
    ]
    return ", ".join([_type_name(field.annotation), *bounds])


def _type_name(annotation: Any) -> str:
    origin, arguments = get_origin(annotation), get_args(annotation)
    if annotation in _TYPE_NAMES:
        return _TYPE_NAMES[annotation]
    if isinstance(annotation, type) and issubclass(annotation, StrictModel):
        return f"[mapping](#{_recipe_anchor(annotation)})"
    if origin is Literal:
        return " or ".join(f"`{value}`" for value in arguments)
    if origin in (Union, types.UnionType):
        return " or ".join(_type_name(a) for a in arguments if a is not type(None))
    if origin is tuple:
        count = "" if Ellipsis in arguments else f"{len(arguments)} "
        return f"list of {count}{_plural(_type_name(arguments[0]))}"
    if origin is dict:
        return "mapping of names to numbers"
    return _type_name(arguments[0])  # Annotated


def _plural(name: str) -> str:
    return name.replace("[mapping]", "[mappings]") if "mapping" in name else f"{name}s"


def _field_default(field: FieldInfo) -> str:
    if field.is_required():
        return "required"
    default = field.get_default(call_default_factory=True)
    if isinstance(default, StrictModel) or default is None or default in ("", {}):
        return ""
    if isinstance(default, tuple):
        return f"`[{', '.join(map(str, default))}]`"
    return f"`{str(default).lower() if isinstance(default, bool) else default}`"


def _inline_code(text: str) -> str:
    """Turn the double backticks and the roles of docstrings into Markdown."""
    text = re.sub(r":[a-z]+:`~?([^`]+)`", r"`\1`", text)
    return text.replace("``", "`")


def _table(header: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    lines = [header, ["---"] * len(header), *rows]
    return "\n".join("| " + " | ".join(c.replace("|", "\\|") for c in row) + " |" for row in lines)
