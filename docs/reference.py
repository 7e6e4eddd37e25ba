"""`make reference`: writes docs/api.md from the SDK's docstrings and the comments of the wire contract.

The texts are in clients/python/indomain and clients/proto; this file only lays them out.
"""

from __future__ import annotations

import ast
import inspect
import re
import sys
import textwrap
from collections.abc import Iterator
from dataclasses import is_dataclass
from importlib import resources
from pathlib import Path
from typing import Any

from google.protobuf.descriptor_pb2 import (
    DescriptorProto,
    FieldDescriptorProto,
    FileDescriptorProto,
    FileDescriptorSet,
)

import indomain

ROOT = Path(__file__).resolve().parents[1]
PAGE = ROOT / "docs/api.md"

HEAD = """# Reference

<!-- Written by `make reference` from the docstrings and from editing.proto; edit those. -->

The Python SDK, then the wire contract. What an HTTP body holds is at `/docs` of a running gateway; its field names are
those of the messages. `AsyncClient` has the methods of `Client`, `AsyncEditSession` those of `EditSession`; they are
not repeated.
"""


def page() -> str:
    """The whole document."""
    return "\n".join([HEAD, *python_part(), *contract_part()]).rstrip() + "\n"


# --- the SDK -------------------------------------------------------------------------------------------------------


def python_part() -> Iterator[str]:
    yield "## Python\n"
    names = [name for name in indomain.__all__ if inspect.isclass(getattr(indomain, name))]
    classes = {name: getattr(indomain, name) for name in names}
    errors = {name: cls for name, cls in classes.items() if issubclass(cls, Exception)}
    first = ["Client", "AsyncClient", "EditSession"]
    for name in [*first, *(name for name in names if name not in errors and name not in first)]:
        yield from class_part(name, classes[name], with_methods=not name.startswith("Async"))
    for name in indomain.__all__:
        if inspect.isfunction(function := getattr(indomain, name)):
            yield f"### {name}\n"
            yield code_block(signature(name, function))
            yield from text_part(function)
    yield "### Errors\n"
    yield from text_part(indomain.IndomainError)
    yield "| error | base | when |\n| --- | --- | --- |"
    for name, cls in errors.items():
        if cls is not indomain.IndomainError:
            bases = ", ".join(f"`{base.__name__}`" for base in cls.__bases__)
            yield f"| `{name}` | {bases} | {' '.join(inspect.getdoc(cls).split())} |"
    yield ""


def class_part(name: str, cls: type, *, with_methods: bool) -> Iterator[str]:
    yield f"### {name}\n"
    if is_dataclass(cls):
        yield code_block(f"{name}({', '.join(dataclass_fields(cls))})")
    elif cls is indomain.Client:
        # Users make no objects of the other classes themselves.
        yield code_block(signature(name, cls.__init__))
    yield from text_part(cls)
    if issubclass(cls, indomain.Result) and cls is not indomain.Result:
        yield "Also has what a [Result](#result) has.\n"
    if with_methods:
        for key in vars(cls):
            method = getattr(cls, key)
            if not key.startswith("_") and inspect.isroutine(method):
                yield f"#### {name}.{key}\n"
                yield code_block(signature(key, method))
                yield from text_part(method)


def dataclass_fields(cls: type) -> list[str]:
    """Those of the classes that it is derived from, then its own."""
    classes = [base for base in reversed(cls.__mro__) if is_dataclass(base)]
    trees = [ast.parse(textwrap.dedent(inspect.getsource(base))).body[0] for base in classes]
    found = [node for tree in trees for node in tree.body if isinstance(node, ast.AnnAssign)]
    return [
        f"{ast.unparse(node.target)}: {ast.unparse(node.annotation)}{default(node.value)}"
        for node in found
        if not ast.unparse(node.target).startswith("_")
    ]


def default(value: ast.expr | None) -> str:
    """Of a field: the constant that stands there, or within `field(default=...)`."""
    if isinstance(value, ast.Call):
        value = next((keyword.value for keyword in value.keywords if keyword.arg == "default"), None)
    return "" if value is None else f"={ast.unparse(value)}"


class AsWritten(str):
    """An annotation that `inspect` prints without quotes."""

    def __repr__(self) -> str:
        return str(self)


def signature(name: str, function: Any) -> str:
    """Of a method, without self, its annotations as they are written."""
    found = inspect.signature(function)
    parameters = [
        parameter.replace(annotation=AsWritten(parameter.annotation))
        for key, parameter in found.parameters.items()
        if key not in ("self", "cls")
    ]
    returns = inspect.Signature.empty if name[0].isupper() else AsWritten(found.return_annotation)
    return f"{name}{found.replace(parameters=parameters, return_annotation=returns)}"


def code_block(text: str) -> str:
    wrapped = textwrap.fill(
        text, 108, subsequent_indent="    ", break_long_words=False, break_on_hyphens=False
    )
    return f"```python\n{wrapped}\n```\n"


def text_part(item: Any) -> Iterator[str]:
    """A docstring: prose, then its sections (`Args:` and their like) as lists, and its examples as code."""
    section, lines = "", []
    for line in [*(inspect.getdoc(item) or "").splitlines(), "End:"]:
        heading = re.fullmatch(r"(Example|Args|Attributes|Warns|Raises|End):", line)
        if heading:
            yield from section_part(section, textwrap.dedent("\n".join(lines)).strip("\n"))
            section, lines = heading[1], []
        elif section and line and not line.startswith(" "):  # prose goes on after a section
            yield from section_part(section, textwrap.dedent("\n".join(lines)).strip("\n"))
            section, lines = "", [line]
        else:
            lines.append(line)


def section_part(section: str, text: str) -> Iterator[str]:
    if not text:
        return
    if section == "Example":
        yield f"```python\n{text}\n```\n"
    elif not section:
        yield text + "\n"
    else:
        yield f"{section}:\n"
        for entry in re.split(r"\n(?=\S)", text):
            names, colon, meaning = " ".join(entry.split()).partition(": ")
            yield f"- `{names}`: {meaning}" if colon and "`" not in names else f"- {names}{colon}{meaning}"
        yield ""


# --- the contract --------------------------------------------------------------------------------------------------

SCALARS = {
    FieldDescriptorProto.TYPE_DOUBLE: "double",
    FieldDescriptorProto.TYPE_FLOAT: "float",
    FieldDescriptorProto.TYPE_INT64: "int64",
    FieldDescriptorProto.TYPE_UINT64: "uint64",
    FieldDescriptorProto.TYPE_INT32: "int32",
    FieldDescriptorProto.TYPE_BOOL: "bool",
    FieldDescriptorProto.TYPE_STRING: "string",
    FieldDescriptorProto.TYPE_BYTES: "bytes",
}


def contract_part() -> Iterator[str]:
    file, comments = parsed_contract()
    yield f"## Wire contract: `{file.package}`\n"
    for s, service in enumerate(file.service):
        yield f"### Service {service.name}\n\n| RPC | request | answer | |\n| --- | --- | --- | --- |"
        for m, method in enumerate(service.method):
            request = ("stream of " if method.client_streaming else "") + link(method.input_type)
            answer = ("stream of " if method.server_streaming else "") + link(method.output_type)
            yield f"| `{method.name}` | {request} | {answer} | {comments.get((6, s, 2, m), '')} |"
        yield ""
    for n, message in enumerate(file.message_type):
        yield f"### Message {message.name}\n"
        if comment := comments.get((4, n)):
            yield comment + "\n"
        if message.field:
            yield "| field | type | |\n| --- | --- | --- |"
        for f, field in enumerate(message.field):
            yield f"| `{field.name}` | {field_type(field, message)} | {comments.get((4, n, 2, f), '')} |"
        yield ""
    for n, enum in enumerate(file.enum_type):
        yield f"### Enum {enum.name}\n\n| value | |\n| --- | --- |"
        for v, value in enumerate(enum.value):
            yield f"| `{value.name}` | {comments.get((5, n, 2, v), '')} |"
        yield ""


def parsed_contract() -> tuple[FileDescriptorProto, dict[tuple[int, ...], str]]:
    """The file, and the comments of each place in it (before it and behind it), as protoc finds them."""
    # `make proto` writes it beside the generated code.
    content = resources.files("indomain.v1").joinpath("editing.binpb").read_bytes()
    [file] = FileDescriptorSet.FromString(content).file
    comments = {}
    for location in file.source_code_info.location:
        text = " ".join((location.leading_comments + " " + location.trailing_comments).split())
        comments[tuple(location.path)] = text.replace("|", "\\|")
    return file, comments


def field_type(field: FieldDescriptorProto, message: DescriptorProto) -> str:
    nested = {kind.name: kind for kind in message.nested_type}
    name = field.type_name.rpartition(".")[2]
    if name in nested and nested[name].options.map_entry:
        key, value = nested[name].field
        return f"map of {SCALARS[key.type]} to {SCALARS.get(value.type) or link(value.type_name)}"
    is_enum = field.type == FieldDescriptorProto.TYPE_ENUM
    kind = SCALARS.get(field.type) or link(field.type_name, "enum" if is_enum else "message")
    if field.label == FieldDescriptorProto.LABEL_REPEATED:
        return f"repeated {kind}"
    if field.proto3_optional:
        return f"optional {kind}"
    if field.HasField("oneof_index"):
        return f"{kind}, one of `{message.oneof_decl[field.oneof_index].name}`"
    return kind


def link(type_name: str, kind: str = "message") -> str:
    name = type_name.rpartition(".")[2]
    return f"[{name}](#{kind}-{name.lower()})"


def main() -> None:
    PAGE.write_text(page(), encoding="utf-8")
    print(f"wrote {PAGE.relative_to(ROOT)}")


if __name__ == "__main__":
    sys.exit(main())
