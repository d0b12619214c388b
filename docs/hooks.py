"""MkDocs hook: writes the generated parts of the reference pages from the code.

A page contains a line such as ``<!-- generated: cli -->``. It is replaced when the site is built.
"""

import re
import types
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any, Literal, Union, get_args, get_origin

import typer
from fastapi import FastAPI
from pydantic.fields import FieldInfo

from dualpath.cli.main import app as cli_app
from dualpath.recipes.base import StrictModel
from dualpath.recipes.encoders import ImageEncoderRecipe, TextEncoderRecipe
from dualpath.recipes.loading import read_recipe, shipped_recipes
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
    """Return a section for each command: its help, usage, arguments and options."""
    return "\n\n".join(_command_sections(typer.main.get_command(cli_app), "dualpath"))


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


def _command_sections(command: Any, name: str) -> Iterator[str]:
    commands: Mapping[str, Any] = getattr(command, "commands", {})
    if not commands or command.params:
        yield _command_section(command, name)
    else:
        yield f"## {name}\n\n{command.help or ''}"
    for subcommand, found in commands.items():
        yield from _command_sections(found, f"{name} {subcommand}")


def _command_section(command: Any, name: str) -> str:
    options = [p for p in command.params if p.param_type_name == "option"]
    arguments = [p for p in command.params if p.param_type_name == "argument"]
    subcommand = " COMMAND [ARGS]..." if getattr(command, "commands", None) else ""
    usage = " ".join([name, *(["[OPTIONS]"] if options else []), *map(_argument_usage, arguments)])
    parts = [
        f"{'#' * (2 if name.count(' ') < 2 else 3)} {name}",
        (command.help or "").replace("Example: ", "\nExample: "),
        f"```text\n{usage}{subcommand}\n```",
    ]
    if arguments:
        rows = [[f"`{_metavar(p)}`", _param_help(p)] for p in arguments]
        parts.append(_table(["argument", "description"], rows))
    if options:
        rows = [
            [", ".join(f"`{o}`" for o in p.opts), _value(p), _default(p), _param_help(p)]
            for p in options
        ]
        parts.append(_table(["option", "value", "default", "description"], rows))
    return "\n\n".join(parts)


def _metavar(param: Any) -> str:
    return (param.metavar or param.name.upper()).strip("[]. ").replace("]", "")


def _argument_usage(param: Any) -> str:
    name = _metavar(param) + ("..." if param.nargs == -1 else "")
    return name if param.required else f"[{name}]"


def _param_help(param: Any) -> str:
    help_text = getattr(param, "help", None) or ""
    variable = getattr(param, "envvar", None)
    return help_text + (f" Environment variable: `{variable}`." if variable else "")


def _value(param: Any) -> str:
    if getattr(param, "is_flag", False):
        return ""
    choices = getattr(param.type, "choices", None)
    if choices:
        return " or ".join(f"`{getattr(choice, 'value', choice)}`" for choice in choices)
    if param.metavar:
        return f"`{param.metavar}`"
    low, high = getattr(param.type, "min", None), getattr(param.type, "max", None)
    bounds = [f"≥ {low}" if low is not None else "", f"≤ {high}" if high is not None else ""]
    kind = str(param.type.name).removesuffix(" range")
    return ", ".join(filter(None, [kind, *bounds]))


def _default(param: Any) -> str:
    if param.required:
        return "required"
    default = getattr(param.default, "value", param.default)
    hidden = default is None or default == () or isinstance(default, bool) or callable(default)
    return "" if hidden else f"`{default}`"


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
        kind, body = next(iter(content.items()), ("", {}))
        name = _schema_name(body.get("schema", {}))
        if int(status) >= 400:
            errors.append(status)
        elif name:
            yield f"{status} [`{name}`](#{name.lower()})"
        else:
            yield f"{status} `{kind}`" if kind else f"{status} without content"
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
        [f"`{name}`", _field_type(field), _field_default(field), descriptions.get(name, "")]
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
    text = " ".join(section.split())
    field = "(?:" + "|".join(model.model_fields) + ")"
    marks = list(re.finditer(rf"(?:^|(?<=\. ))({field}(?:, {field})*): ", text))
    ends = [mark.start() for mark in marks[1:]] + [len(text)]
    return {
        name: _inline_code(_sentence(text[mark.end() : end]))
        for mark, end in zip(marks, ends, strict=True)
        for name in mark[1].split(", ")
    }


def _summary(model: type[StrictModel]) -> str:
    return " ".join((model.__doc__ or "").partition("Attributes:")[0].split())


def _sentence(text: str) -> str:
    text = text.strip()
    return text[:1].upper() + text[1:]


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


def _table(header: Iterable[str], rows: Iterable[Iterable[str]]) -> str:
    lines = [list(header), *rows]
    lines.insert(1, ["---"] * len(lines[0]))
    return "\n".join("| " + " | ".join(c.replace("|", "\\|") for c in row) + " |" for row in lines)
