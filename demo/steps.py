"""The steps of the demo, in their order. The first line of each docstring is its title on the screen."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from demo.scene import REMOTE_ROOT, Scene, require, say
from runicorn.manifest import ManifestGenerator
from runicorn.remote_storage import ManifestSyncClient
from testbed.trees import make_tree

RUNS = 24
RUNNING = 4
RECORDS = 60
FEW_REQUESTS = 8


def make_runs(scene: Scene) -> None:
    """A server with runs, four of which are still training."""
    runs = make_tree(scene.root, RUNS, running=RUNNING)
    scene.start_training(runs[-RUNNING:])
    server = scene.server
    say(f"everything lies in {scene.folder}")
    say(f"{RUNS} runs, {len(scene.files())} files; a process goes on appending to logs of {RUNNING} runs")
    say(f"an SFTP server on {server.host} port {server.port}, called gpu1 here by means of RUNICORN_SSH")


def publish(scene: Scene) -> None:
    """On the server: publish what there is. A timer would do this every few minutes."""
    for line in scene.generate_manifest().splitlines():
        say(line)


def first_sync(scene: Scene) -> None:
    """On your machine: the first sync fetches everything, while the training goes on."""
    report = scene.sync()
    _tell(report)
    require(report["method"] == "journal", f"it did not use the journal: {report['fallback_reason']}")
    require(report["failed_count"] == 0, f"files failed: {report['failed']}")
    require(report["files_synced"] == len(scene.files()), "it did not fetch all files")


def second_sync(scene: Scene) -> None:
    """The second sync finds nothing new: it costs a few requests, however many runs there are."""
    report = scene.sync()
    _tell(report)
    require(report["skipped"] is True, "it was not skipped")
    require(report["bytes_downloaded"] == 0, "it fetched content of files")
    require(report["requests"] <= FEW_REQUESTS, f"it needed more than {FEW_REQUESTS} requests")


def append(scene: Scene) -> None:
    """The runs have gone on: a sync moves only what was appended."""
    scene.trainer.pause(after=RECORDS)
    scene.generate_manifest()
    growth = scene.growth()
    report = scene.sync()
    _tell(report)
    say(f"appended on the server: {growth.complete:,} bytes in whole records, to {growth.logs} logs")
    say(f"received as content of files: {report['bytes_downloaded']:,} bytes")
    say(f"records that are not complete yet wait on the server: {growth.unfinished:,} bytes")
    require(growth.logs > 0 and growth.unfinished > 0, "the training did not go on")
    require(report["incremental_count"] == growth.logs, "it did not append to each log that has grown")
    require(report["full_count"] == 0, "it fetched whole files again")
    require(report["bytes_downloaded"] == growth.complete, "it did not move exactly what was appended")
    _require_equal(scene)
    scene.trainer.resume()


def from_a_program(scene: Scene) -> None:
    """The training ends; the same from a Python program."""
    scene.trainer.pause(after=RECORDS)
    scene.trainer.resume()
    scene.trainer.finish()
    say(f'manifest, path = ManifestGenerator(Path("{REMOTE_ROOT}")).generate()')
    manifest, path = ManifestGenerator(scene.root).generate()
    say(f"-> revision {manifest.revision}, {manifest.total_experiments} runs, {path.name}")
    say(f'client = ManifestSyncClient(ssh.open_sftp(), "{REMOTE_ROOT}", Path("mirror"), jitter_max=0)')
    say("stats = client.sync()")
    ssh = scene.server.paramiko_client()
    try:
        stats = ManifestSyncClient(ssh.open_sftp(), REMOTE_ROOT, scene.mirror, jitter_max=0).sync()
    finally:
        ssh.close()
    _tell(stats)
    require(stats["incremental_count"] == 2 * RUNNING, "it did not append to the logs of the runs that ended")
    require(stats["full_count"] == RUNNING, "it did not fetch each new status.json, and nothing else whole")
    unequal = scene.differences(to_the_last_byte=True)
    require(not unequal, f"the runs have ended, and these files are not equal: {unequal}")
    say(f"all {len(scene.files())} files in the mirror are equal to those on the server")


STEPS: tuple[Callable[[Scene], None], ...] = (
    make_runs,
    publish,
    first_sync,
    second_sync,
    append,
    from_a_program,
)


def _tell(report: dict[str, Any]) -> None:
    what = f"skipped, {report['reason']}" if report["skipped"] else f"{report['files_synced']} files"
    say(
        f"-> {what}; {report['requests']} requests, {report['bytes_received']:,} bytes received in all,"
        f" {report['bytes_downloaded']:,} of them content of files; {report['duration']:.2f} s"
    )


def _require_equal(scene: Scene) -> None:
    unequal = scene.differences()
    require(not unequal, f"the mirror is not up to date: {unequal}")
