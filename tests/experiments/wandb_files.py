"""Reads the transaction logs that wandb leaves offline, with its own messages alone (in LevelDB's log framing)."""

import json
import struct
from pathlib import Path

from wandb.proto import wandb_internal_pb2 as messages

BLOCK, HEADER = 32768, 7
FULL, LAST = 1, 4


def records(path):
    """Give the records of a log, up to where a killed or writing process has come."""
    data = path.read_bytes()
    assert data[:4] == b":W&B"
    place, collected = HEADER, b""
    while place + HEADER <= len(data):
        left = BLOCK - place % BLOCK
        if left < HEADER:
            place += left
            continue
        _, length, kind = struct.unpack("<IHB", data[place : place + HEADER])
        if kind == 0 and length == 0:
            place += left
            continue
        chunk = data[place + HEADER : place + HEADER + length]
        if len(chunk) < length:
            return
        place, collected = place + HEADER + length, collected + chunk
        if kind in (FULL, LAST):
            record = messages.Record()
            record.ParseFromString(collected)
            collected = b""
            yield record


def _values(items):
    return {(item.key or "/".join(item.nested_key)): json.loads(item.value_json) for item in items}


def read(run_dir):
    """Give everything that the fragments of a run directory hold."""
    found = {"config": {}, "summary": {}, "history": [], "artifacts": [], "defined": {}, "exit": None}
    for path in sorted(Path(run_dir).glob("wandb/offline-run-*/*.wandb")):
        for record in records(path):
            kind = record.WhichOneof("record_type")
            if kind == "run":
                run = record.run
                named = {"id": run.run_id, "name": run.display_name, "group": run.run_group, "job_type": run.job_type}
                found |= named | {"project": run.project, "tags": list(run.tags)}
                found["config"] |= _values(run.config.update)
            elif kind == "config":
                found["config"] |= _values(record.config.update)
            elif kind == "history":
                found["history"].append(_values(record.history.item))
            elif kind == "summary":
                found["summary"] |= _values(record.summary.update)
            elif kind == "metric":
                found["defined"][record.metric.name or record.metric.glob_name] = record.metric.step_metric
            elif kind == "artifact":
                artifact = record.artifact
                entries = [entry.path or entry.ref for entry in artifact.manifest.contents]
                about = {
                    "name": artifact.name,
                    "type": artifact.type,
                    "aliases": list(artifact.aliases),
                    "entries": entries,
                }
                found["artifacts"].append(about | {"metadata": json.loads(artifact.metadata or "{}")})
            elif kind == "exit":
                found["exit"] = record.exit.exit_code
    return found
