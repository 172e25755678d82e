"""docs/troubleshooting.md explains what the program says: errors, hints, warnings, notes."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from typing import NamedTuple

from tests.docs.pages import PROJECT_ROOT, error_classes, read


class Cure(NamedTuple):
    """A row of the page: the exit code of its section, and its cells."""

    code: int
    name: str
    hint: str
    text: str


def _cures() -> list[Cure]:
    found = []
    for section in re.split(r"^## ", read("docs/troubleshooting.md"), flags=re.MULTILINE)[1:]:
        code = int(section.split(":")[0])
        for row in re.findall(r"^\| `(\w+)` \|(.*?)\|(.*)\|$", section, re.MULTILINE):
            found.append(Cure(code, row[0], row[1].strip(), row[2].strip()))
    return found


def _sources() -> list[str]:
    return [path.read_text(encoding="utf-8") for path in (PROJECT_ROOT / "src").rglob("*.py")]


def _texts(node: ast.AST) -> Iterator[list[str]]:
    """The constant parts of each text in an expression."""
    if isinstance(node, ast.Constant) and isinstance(node.value, str):
        yield [node.value]
    elif isinstance(node, ast.JoinedStr):
        yield [str(each.value) for each in node.values if isinstance(each, ast.Constant)]
    elif isinstance(node, ast.Tuple):  # of a sign in what ssh says, and the hint
        for each in node.elts:
            yield from _texts(each.elts[-1] if isinstance(each, ast.Tuple) else each)


def _hints() -> Iterator[tuple[str, list[str]]]:
    """The class and the constant parts of every hint that the program gives; no class where that is open."""
    classes = {each.__name__ for each in error_classes()}
    for tree in map(ast.parse, _sources()):
        for node in ast.walk(tree):
            if isinstance(node, ast.Call):
                name = node.func.id if isinstance(node.func, ast.Name) else ""
                for each in node.keywords:
                    if each.arg == "hint":
                        yield from ((name if name in classes else "", parts) for parts in _texts(each.value))
            elif isinstance(node, ast.Assign | ast.AnnAssign) and node.value is not None:
                target = node.targets[0] if isinstance(node, ast.Assign) else node.target
                if isinstance(target, ast.Name) and re.fullmatch(r"(\w*_)?hints?", target.id, re.IGNORECASE):
                    yield from (("", parts) for parts in _texts(node.value))


def test_every_error_is_explained_under_its_exit_code_with_its_hint() -> None:
    cures = _cures()
    for each in error_classes():
        rows = [cure for cure in cures if cure.name == each.__name__]
        assert {cure.code for cure in rows} == {each.exit_code}, f"{each.__name__} is not explained there"
        inherits = "default_hint" not in vars(each)
        assert inherits or each.default_hint in {cure.hint for cure in rows}, each.__name__
    assert {cure.name for cure in cures} == {each.__name__ for each in error_classes()}
    assert all(cure.text for cure in cures)


def _says(parts: list[str], hint: str) -> bool:
    return all(part.strip(" '`") in hint for part in parts)


def test_every_hint_of_the_program_is_explained() -> None:
    cures = _cures()
    given = [(name, parts) for name, parts in _hints() if any(parts)]
    assert len(given) >= 30
    for name, parts in given:
        rows = [cure for cure in cures if _says(parts, cure.hint)]
        assert any(name in ("", cure.name) for cure in rows), f"{name}: {parts}"
    for cure in cures:
        told = not cure.hint or any(_says(parts, cure.hint) for _, parts in given)
        assert told or cure.hint in {each.default_hint for each in error_classes()}, cure


def test_messages_that_the_troubleshooting_quotes_are_those_of_the_program() -> None:
    source = "\n".join(_sources())
    page = read("docs/troubleshooting.md")
    first = re.findall(r"^\| `([^|]+)` \|", page.split("## 1:")[0], re.MULTILINE)
    quoted = [message for each in first for message in each.split("`, `")]
    quoted += ["cannot use the mirror", "internal error", "another sync works on the mirror"]
    quoted += [
        "the source ... names no host",
        "the host key was refused",
        "there is no folder ... at the source",
    ]
    quoted += [
        "the working folder is not there any more",
        "what was asked for is done, but the result cannot be written",
    ]
    quoted += ["subsystem request failed", "Too many authentication failures", "Could not resolve hostname"]
    assert len(quoted) >= 10
    for message in quoted:
        assert f"`{message}" in page, message
        assert all(each.strip() in source for each in re.split(r"\.\.\.|: ", message)), message


_REASONS = (
    "_reason_for_all",
    "_remove_sure",
    "reason_to_keep",
    "_doubt_about_history",
    "_reason_to_keep_file",
)


def _parts(node: ast.AST) -> list[str]:
    """The constant parts of a text that has some words, formats of logging taken out."""
    parts = [each.strip() for part in next(_texts(node), []) for each in re.split(r"%\w", part)]
    return [each for each in parts if len(each.split()) >= 3]


def _said() -> Iterator[list[str]]:
    """What a sync notes, why it keeps files, and every warning of the program."""
    for tree in map(ast.parse, _sources()):
        for node in ast.walk(tree):
            if isinstance(node, ast.Call) and ast.unparse(node.func) in ("log.warning", "_log.warning"):
                yield _parts(node.args[0])
            elif isinstance(node, ast.FunctionDef) and node.name == "notes":
                found = (each for each in ast.walk(node) if isinstance(each, ast.Yield))
                yield from (_parts(each.value) for each in found if each.value is not None)
            elif isinstance(node, ast.FunctionDef) and node.name in _REASONS:
                without_docstring = node.body[ast.get_docstring(node) is not None :]
                yield from map(_parts, (each for part in without_docstring for each in ast.walk(part)))


def test_everything_that_is_said_beside_a_result_is_explained() -> None:
    cells = [
        each.replace("...", "").strip() for each in re.findall("`([^`\n]+)`", read("docs/troubleshooting.md"))
    ]
    told = [each for each in cells if len(each.split()) >= 3]
    said = [parts for parts in _said() if parts]
    assert len(said) >= 25
    for parts in said:
        assert any(each in part or part in each for each in told for part in parts), parts
