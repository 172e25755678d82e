"""What users may rely on: public names, signatures, docstrings, the error tree."""

from __future__ import annotations

import ast
import importlib
import inspect
import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

import runicorn
from runicorn import errors, manifest, remote_storage
from runicorn.manifest import ManifestGenerator, ManifestType
from runicorn.remote_storage import (
    LiveSession,
    LocalCacheManager,
    ManifestSyncClient,
    MetadataSyncService,
    Selection,
    SyncOptions,
    SyncProgress,
    SyncReport,
    Watcher,
    WatchOptions,
    synchronize,
)

SOURCE = Path(runicorn.__file__).parent

PUBLIC = {
    "runicorn": {"__version__"},
    "runicorn.manifest": {
        "FileEntry",
        "Header",
        "Identity",
        "Manifest",
        "ManifestGenerator",
        "ManifestType",
        "Problem",
        "Run",
        "read_manifest",
    },
    "runicorn.remote_storage": {
        "LiveSession",
        "LocalCacheManager",
        "ManifestSyncClient",
        "MetadataSyncService",
        "Selection",
        "SyncOptions",
        "SyncProgress",
        "SyncReport",
        "SyncResult",
        "WatchOptions",
        "Watcher",
        "synchronize",
    },
}

SIGNATURES: dict[str, tuple[Callable[..., Any], str]] = {
    "ManifestGenerator": (
        ManifestGenerator,
        "remote_root, output_dir=None, active_window_seconds=3600, incremental=True, lock_timeout=60.0,"
        " *, journal=True, compact=False",
    ),
    "ManifestGenerator.generate": (
        ManifestGenerator.generate,
        "self, manifest_type=<ManifestType.FULL: 'full'>, output_path=None",
    ),
    "read_manifest": (manifest.read_manifest, "path"),
    "ManifestSyncClient": (
        ManifestSyncClient,
        "sftp_client, remote_root, cache_dir, jitter_max=5.0, options=None",
    ),
    "ManifestSyncClient.sync": (
        ManifestSyncClient.sync,
        "self, progress_callback=None, *, observer=None, cancel=None",
    ),
    "MetadataSyncService": (
        MetadataSyncService,
        "ssh_session, sftp_client, remote_root, cache_manager, use_manifest_sync=True,"
        " manifest_sync_jitter=5.0, options=None",
    ),
    "MetadataSyncService.sync_all": (MetadataSyncService.sync_all, "self"),
    "MetadataSyncService.start_background_sync": (
        MetadataSyncService.start_background_sync,
        "self, interval_seconds=300.0",
    ),
    "MetadataSyncService.stop_background_sync": (MetadataSyncService.stop_background_sync, "self"),
    "MetadataSyncService.get_progress": (MetadataSyncService.get_progress, "self"),
    "MetadataSyncService.add_progress_callback": (
        MetadataSyncService.add_progress_callback,
        "self, callback",
    ),
    "LocalCacheManager": (LocalCacheManager, "root_dir"),
    "Selection": (Selection, "projects=(), include=(), exclude=(), media=True"),
    "SyncOptions": (
        SyncOptions,
        "method='auto', selection=<factory>, delete=False, force_delete=False, source='', dry_run=False,"
        " lock_timeout=5.0",
    ),
    "SyncProgress": (
        SyncProgress,
        "running=False, completed=0, total=0, current_file='', last_stats=None, last_error=''",
    ),
    "LiveSession": (
        LiveSession,
        "connect, remote_root, mirror_root, options=None, observer=<ignore>, cancel=None, clock=None",
    ),
    "Watcher": (Watcher, "session, options=None, observer=<ignore>, clock=None"),
    "Watcher.run": (Watcher.run, "self, stop"),
    "WatchOptions": (WatchOptions, "interval=1.0, stretch=True, persistent=False"),
    "MetadataSyncService.add_observer": (MetadataSyncService.add_observer, "self, observer"),
    "synchronize": (
        synchronize,
        "transport, remote_root, mirror_root, options=None, observer=<ignore>, cancel=None, journal=None,"
        " workers=None",
    ),
}
"""Names, order and defaults of parameters: a change here breaks programs."""

STATISTICS = {
    "skipped",
    "reason",
    "files_synced",
    "bytes_downloaded",
    "incremental_count",
    "full_count",
    "failed_count",
    "removed_count",
    "duration",
    "manifest_revision",
    "method",
    "generated_at",
}
"""What programs were promised; docs/sync-json.md has all."""

MANIFEST_PROPERTIES = ("total_experiments", "total_files", "total_bytes", "revision", "snapshot_id")


def _default(value: Any) -> str:
    if inspect.isfunction(value):
        return f"<{value.__name__}>"
    return str(value) if str(value) == "<factory>" else repr(value)


def _shown(function: Callable[..., Any]) -> str:
    parts = []
    for each in inspect.signature(function).parameters.values():
        if each.kind is each.KEYWORD_ONLY and "*" not in parts:
            parts.append("*")
        parts.append(each.name if each.default is each.empty else f"{each.name}={_default(each.default)}")
    return ", ".join(parts)


@pytest.mark.parametrize("name", sorted(PUBLIC))
def test_public_names(name: str) -> None:
    module = importlib.import_module(name)
    assert set(module.__all__) == PUBLIC[name]
    assert len(module.__all__) == len(PUBLIC[name])
    for each in PUBLIC[name]:
        assert getattr(module, each) is not None


def test_unknown_name_of_the_manifest_package_is_an_attribute_error() -> None:
    with pytest.raises(AttributeError, match="no_such_name"):
        _ = manifest.no_such_name


@pytest.mark.parametrize("name", sorted(SIGNATURES))
def test_signature(name: str) -> None:
    function, shown = SIGNATURES[name]
    assert _shown(function) == shown


def test_calls_of_the_interface_document_bind() -> None:
    root, cache = Path("root"), Path("cache")
    inspect.signature(ManifestGenerator).bind(
        remote_root=root, output_dir=None, active_window_seconds=3600, incremental=True
    )
    inspect.signature(ManifestGenerator.generate).bind(None, manifest_type=ManifestType.FULL)
    inspect.signature(ManifestSyncClient).bind(
        sftp_client=None, remote_root="/data", cache_dir=cache, jitter_max=5.0
    )
    inspect.signature(ManifestSyncClient.sync).bind(None, progress_callback=print)
    inspect.signature(MetadataSyncService).bind(
        ssh_session=None,
        sftp_client=None,
        remote_root="/data",
        cache_manager=None,
        use_manifest_sync=True,
        manifest_sync_jitter=5.0,
    )
    inspect.signature(MetadataSyncService.start_background_sync).bind(None, interval_seconds=300)


def test_promised_statistics_and_properties_exist() -> None:
    assert set(SyncReport().as_dict()) >= STATISTICS
    assert all(isinstance(getattr(manifest.Manifest, name), property) for name in MANIFEST_PROPERTIES)


def test_documented_modules_lead_to_the_same_classes() -> None:
    from runicorn.remote_storage import manifest_sync

    assert manifest_sync.ManifestSyncClient is remote_storage.ManifestSyncClient
    assert (ManifestType("full"), ManifestType("active")) == (ManifestType.FULL, ManifestType.ACTIVE)


# -- docstrings --------------------------------------------------------------------------------


def _undocumented(node: ast.AST, where: str) -> Iterator[str]:
    for child in ast.iter_child_nodes(node):
        if isinstance(child, ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef):
            name = f"{where}.{child.name}"
            if child.name.startswith("_") or _is_overload(child):
                continue
            if ast.get_docstring(child) is None:
                yield name
            if isinstance(child, ast.ClassDef):
                yield from _undocumented(child, name)
        elif isinstance(child, ast.If | ast.Try):
            yield from _undocumented(child, where)


def _is_overload(node: ast.AST) -> bool:
    return any(ast.unparse(each) == "overload" for each in getattr(node, "decorator_list", []))


def test_everything_public_has_a_docstring() -> None:
    missing = []
    for path in sorted(SOURCE.rglob("*.py")):
        tree = ast.parse(path.read_text(encoding="utf-8"))
        where = str(path.relative_to(SOURCE))
        missing += [where] if ast.get_docstring(tree) is None else []
        missing += _undocumented(tree, where)
    assert missing == []


def test_public_methods_have_docstrings_when_they_run() -> None:
    for module in (manifest, remote_storage):
        for name in module.__all__:
            value = getattr(module, name)
            assert inspect.getdoc(value), name
            if inspect.isclass(value):
                own = {key: each for key, each in vars(value).items() if not key.startswith("_")}
                functions = {
                    key: each for key, each in own.items() if callable(each) or isinstance(each, property)
                }
                assert [key for key, each in functions.items() if not inspect.getdoc(each)] == [], name


# -- the error tree ----------------------------------------------------------------------------

_BRANCH = re.compile(r"^ {4}(?P<indent>[| '\-]*)(?P<name>\w+) +(?P<code>\d+)(?:  (?P<words>.+))?$")


def _error_classes() -> list[type[errors.RunicornError]]:
    found = [value for value in vars(errors).values() if inspect.isclass(value)]
    return [value for value in found if issubclass(value, errors.RunicornError)]


def _drawn_tree() -> dict[str, tuple[str, int]]:
    """Name of a class -> its parent and its exit code, as errors.py draws them."""
    drawn: dict[str, tuple[str, int]] = {}
    above: list[str] = []
    for line in (errors.__doc__ or "").splitlines():
        found = _BRANCH.match(line)
        if found is None:
            continue
        depth = len(found["indent"]) // 3
        parent = above[depth - 1] if depth else "Exception"
        above[depth:] = [found["name"]]
        assert found["name"] not in drawn
        drawn[found["name"]] = (parent, int(found["code"]))
        assert depth == 0 or found["words"], f"{found['name']} has no words"
    return drawn


def test_error_tree_is_the_one_that_is_drawn() -> None:
    real = {each.__name__: (each.__bases__[0].__name__, each.exit_code) for each in _error_classes()}
    assert _drawn_tree() == real


@pytest.mark.parametrize("kind", _error_classes(), ids=lambda kind: kind.__name__)
def test_error_class_answers_the_three_questions(kind: type[errors.RunicornError]) -> None:
    assert 0 < kind.exit_code <= 130
    assert isinstance(kind.retryable, bool)
    assert isinstance(kind.default_hint, str)
    assert len(kind.__bases__) == 1
    extra = {"code": 4} if kind is errors.RequestError else {}
    error = kind("what happened", **extra)  # type: ignore[arg-type]
    assert str(error) == "what happened"
    assert error.hint == kind.default_hint
    assert error.path == ""


def test_hint_of_the_moment_goes_before_the_one_of_the_class() -> None:
    assert errors.MirrorBusyError("busy", hint="another hint").hint == "another hint"
