"""How fresh a mirror is, what it holds, and what failed last: of its own records alone."""

from __future__ import annotations

import json
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from runicorn.cli import reach
from runicorn.cli.sync_output import FORMAT_VERSION, MAX_NAMED_FAILURES
from runicorn.cli.units import age_text, size_text
from runicorn.errors import RunicornError, UsageError
from runicorn.manifest.rules import escape, visible
from runicorn.remote_storage.mirror_view import MirrorView

if TYPE_CHECKING:
    from runicorn.remote_storage.contact import Contact


def mirror_status(text: str | None, *, as_json: bool) -> int:
    """Show one mirror, or those of all remotes; returns the exit code.

    Args:
        text: the folder of a mirror, or the name of a remote; None for all remotes.
        as_json: whether a JSON object is printed.

    Raises:
        RunicornError: there is no such mirror, or it cannot be read.
    """
    if text is not None:
        name, folder = reach.mirror_of(text)
        document = _document(folder, name)
        click.echo(json.dumps({"format_version": FORMAT_VERSION} | document) if as_json else _text(document))
        return 0
    targets = [(each.name, reach.target(each.name, None).mirror) for each in reach.remotes().all()]
    if not targets:
        raise UsageError("there are no remotes yet", hint="name the folder of a mirror")
    documents = [_document_or_error(folder, name) for name, folder in targets]
    if as_json:
        click.echo(json.dumps({"format_version": FORMAT_VERSION, "mirrors": documents}))
    else:
        click.echo("\n\n".join(_text(each) for each in documents))
    return 1 if any("error" in each for each in documents) else 0


def _document_or_error(folder: Path, name: str) -> dict[str, Any]:
    try:
        return _document(folder, name)
    except RunicornError as error:
        return {"remote": name, "mirror": str(folder), "error": str(error)}


def _document(folder: Path, name: str) -> dict[str, Any]:
    now = time.time()
    with MirrorView(folder) as view:
        cursor, source, totals, history = view.cursor, view.source, view.totals(), view.history()
        identity = cursor.identity if cursor is not None else None
        last = history[0].report if history else {}
        failed = next((each for each in history if each.report.get("failed_count")), None)
        return {
            "remote": name or None,
            "mirror": str(folder),
            "source": source.text if source is not None else None,
            "syncing": view.is_synced_now(),
            "contact": _contact(view.contact, now),
            "publication": _publication(view.contact, now),
            "revision": identity.revision if identity is not None else None,
            "lineage": view.lineage[0],
            "is_everything": view.selection.is_everything,
            "method": last.get("method"),
            "fallback_reason": last.get("fallback_reason"),
            "failed_files": None
            if failed is None
            else {"at": failed.started, "files": failed.report.get("failed", [])},
            "failure": None
            if (failure := view.failure) is None
            else {"at": failure.at, "error": failure.error, "exit_code": failure.exit_code},
            "runs": totals.runs,
            "files": totals.files,
            "bytes": totals.size,
            "gone": totals.gone,
            "wanted": totals.wanted,
        }


def _contact(contact: Contact | None, now: float) -> dict[str, Any] | None:
    return None if contact is None else {"at": contact.at, "age": _age(contact.at, now)}


def _publication(contact: Contact | None, now: float) -> dict[str, Any] | None:
    if contact is None or contact.looked_at is None:
        return None
    return {
        "looked_at": contact.looked_at,
        "age_at_least": max(0.0, now - contact.seen_at),
        "age_at_most": None if contact.older_at is None else _age(contact.older_at, now),
    }


def _age(moment: float, now: float) -> float | None:
    """Seconds; None for a time to come: this machine's clock was set back, or another one wrote it."""
    return now - moment if moment <= now else None


# -- for people ----------------------------------------------------------------------------------


def _text(document: dict[str, Any]) -> str:
    title = f"{document['remote']}: " if document["remote"] else ""
    title += escape(document["mirror"])
    if "error" in document:
        return f"{title}\n  error      {visible(document['error'])}"
    rows = [("source", escape(document["source"] or "not recorded")), ("synced", _synced(document))]
    rows += [("published", _published(document["publication"])), ("holds", _holds(document))]
    rows += _troubles(document)
    return "\n".join([title, *(f"  {name:<10} {value}" for name, value in rows)])


def _synced(document: dict[str, Any]) -> str:
    contact = document["contact"]
    parts = ["never to its end" if contact is None else _ago(contact["age"])]
    if document["revision"] is not None:
        parts.append(f"revision {document['revision']}")
    if document["method"]:
        reason = escape(document["fallback_reason"] or "")
        parts.append(
            f"the last changes by the {escape(document['method'])}" + (f" ({reason})" if reason else "")
        )
    if document["syncing"]:
        parts.append("a sync is at work now, and notes its looks once a minute")
    return ", ".join(parts)


def _ago(age: float | None) -> str:
    return "at a time to come by this machine's clock" if age is None else f"{age_text(age)} ago"


def _published(publication: dict[str, Any] | None) -> str:
    if publication is None:
        return "it is not known when: the server publishes nothing, or nothing was synced yet"
    least, most = age_text(publication["age_at_least"]), publication["age_at_most"]
    if most is None:
        return f"at least {least} ago: it was first seen then"
    between = least if age_text(most) == least else f"{least} to {age_text(most)}"
    return f"{between} ago, by this machine's clock alone"


def _holds(document: dict[str, Any]) -> str:
    text = f"{document['runs']} runs, {document['files']} files, {size_text(document['bytes'])}"
    if not document["is_everything"]:
        text += ", a selected part of the root"
    if document["gone"]:
        text += f"; {document['gone']} of them the server does not list any more"
    return text + (f"; {document['wanted']} files are to be fetched yet" if document["wanted"] else "")


def _troubles(document: dict[str, Any]) -> list[tuple[str, str]]:
    now, rows = time.time(), []
    failed, failure = document["failed_files"], document["failure"]
    if failed is not None:
        ago = age_text(max(0.0, now - failed["at"]))
        rows.append(("failed", f"{len(failed['files'])} files in the sync of {ago} ago"))
        for each in failed["files"][:MAX_NAMED_FAILURES]:
            rows.append(("", f"{escape(str(each.get('path')))}: {escape(str(each.get('error')))}"))
    if failure is not None:
        contact = document["contact"]
        since = ", before a sync that went well" if contact and contact["at"] > failure["at"] else ""
        ago = age_text(max(0.0, now - failure["at"]))
        rows.append(("failure", f"{ago} ago{since}: {escape(failure['error'])}"))
    return rows
