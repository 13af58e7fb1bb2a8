"""A loopback stand-in for W&B's server, in which the real client starts, logs, resumes, syncs and saves a dashboard.

It proves what the client sends, not what the real server makes of it. Everything is kept in memory; an operation that
it does not know is listed in `unknown`, so that a newer client shows at once.
"""

import base64
import gzip
import json
import re
import threading
import time
import uuid
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

ENTITY = "somebody"
WHEN = "2026-01-01T00:00:00"


def identifier(kind, value):
    return base64.b64encode(f"{kind}:{value}".encode()).decode()


def decoded(value):
    return base64.b64decode(value).decode().split(":", 1)[1]


def page(nodes):
    edges = [{"node": node, "cursor": str(number)} for number, node in enumerate(nodes)]
    return {"edges": edges, "pageInfo": {"__typename": "PageInfo", "endCursor": None, "hasNextPage": False}}


def project_node(name, entity=ENTITY):
    node = {
        "internalId": identifier("ProjectInternalId", f"{entity}/{name}"),
        "id": identifier("Project", f"{entity}/{name}"),
        "name": name,
    }
    return node | {
        "__typename": "Project",
        "entity": {"id": identifier("Entity", entity), "name": entity},
        "entityName": entity,
    }


class Run:
    """What is known of a run."""

    def __init__(self, entity, project, name):
        self.entity, self.project, self.name = entity, project, name
        self.id = identifier("Run", f"{entity}/{project}/{name}")
        self.fields, self.config, self.summary, self.lines = {"tags": []}, {}, {}, {}
        self.state, self.exit_code, self.preempting, self.inserted, self.events = "running", None, False, 0, 0

    @property
    def history(self):
        return [json.loads(self.lines[number]) for number in sorted(self.lines)]

    @property
    def plain_config(self):
        """The configuration as a user gave it."""
        return {key: entry["value"] for key, entry in self.config.items() if key != "_wandb"}

    def node(self):
        keys = {key: {"typeCounts": [{"type": "number", "count": 1}]} for row in self.history for key in row}
        return {
            "id": self.id,
            "projectId": 1,
            "tags": self.fields["tags"],
            "name": self.name,
            "displayName": self.fields.get("displayName") or self.name,
            "sweepName": None,
            "state": self.state,
            "config": json.dumps(self.config),
            "group": self.fields.get("groupName"),
            "jobType": self.fields.get("jobType"),
            "commit": None,
            "readOnly": False,
            "createdAt": WHEN,
            "heartbeatAt": WHEN,
            "description": "",
            "notes": None,
            "systemMetrics": "{}",
            "summaryMetrics": json.dumps(self.summary),
            "historyLineCount": len(self.lines),
            "user": {"name": ENTITY, "username": ENTITY},
            "historyKeys": {"lastStep": len(self.lines) - 1, "keys": keys},
        }


class Server:
    """The state behind the address, and one method per operation of the client."""

    def __init__(self, *, delay=0.0):
        self.lock, self.delay = threading.RLock(), delay
        self.runs, self.artifacts, self.uploads, self.views, self.projects = {}, {}, {}, {}, set()
        self.edges, self.operations, self.unknown = [], [], []
        self.http = Quiet(("127.0.0.1", 0), type("Bound", (Handler,), {"store": self}))
        self.url = f"http://127.0.0.1:{self.http.server_address[1]}"
        threading.Thread(target=self.http.serve_forever, daemon=True).start()

    def close(self):
        self.http.shutdown()
        self.http.server_close()

    def run(self, entity, project, name):
        return self.runs.setdefault(f"{entity}/{project}/{name}", Run(entity, project, name))

    def answer(self, operation, variables):
        self.operations.append(operation)
        words = re.sub(r"(?<=[a-z0-9])(?=[A-Z])|(?<=[A-Z])(?=[A-Z][a-z])", "_", operation)
        method = getattr(self, f"on_{words.lower()}", None)
        if method is None:
            self.unknown.append((operation, variables))
            return {}
        return method(variables)

    # -- who and what is there ---------------------------------------------------------------------

    def on_viewer(self, v):
        viewer = {"id": "1", "entity": ENTITY, "username": ENTITY, "email": "", "flags": "{}", "teams": page([])}
        return {"viewer": viewer}

    on_get_default_entity = on_viewer

    def on_server_info(self, v):
        return {"serverInfo": {"cliVersionInfo": {"max_cli_version": "9.9.9"}, "latestLocalVersionInfo": None}}

    def on_server_features_query(self, v):
        return {"serverInfo": {"features": [{"name": "ARTIFACT_COLLECTION_MEMBERSHIP_FILES", "isEnabled": False}]}}

    def on_organization_core_weave_organization_id(self, v):
        return {"entity": None}

    def on_project_internal_id(self, v):
        return {"project": {"internalId": identifier("ProjectInternalId", "1"), "id": "1"}}

    def on_create_project(self, v):
        self.projects.add(v["input"]["name"])
        return {"upsertModel": {"model": project_node(v["input"]["name"])}}

    def on_get_projects(self, v):
        names = sorted(self.projects | {run.project for run in self.runs.values()})
        return {
            "models": page(
                [project_node(name) | {"createdAt": WHEN, "isBenchmark": False, "user": None} for name in names]
            )
        }

    # -- runs --------------------------------------------------------------------------------------

    def on_upsert_bucket(self, v):
        run = self.run(v.get("entity") or ENTITY, v.get("project") or "uncategorized", v.get("name") or v.get("id"))
        run.fields |= {
            key: v[key] for key in ("displayName", "groupName", "jobType", "tags", "sweep") if v.get(key) is not None
        }
        if v.get("config"):
            run.config = json.loads(v["config"])
        if v.get("summaryMetrics"):
            run.summary |= json.loads(v["summaryMetrics"])
        run.inserted += 1
        place = {
            "project": project_node(run.project, run.entity),
            "sweepName": None,
            "historyLineCount": len(run.lines),
        }
        named = {
            "id": run.id,
            "name": run.name,
            "displayName": run.fields.get("displayName") or run.name,
            "description": "",
        }
        return {
            "upsertBucket": {
                "bucket": {**named, **place, "config": json.dumps(run.config)},
                "inserted": run.inserted == 1,
            }
        }

    def on_run_resume_status(self, v):
        entity, project = v.get("entity") or ENTITY, v["project"]
        run, bucket = self.runs.get(f"{entity}/{project}/{v['name']}"), None
        if run is not None and run.lines:
            last = run.lines[max(run.lines)]
            counts = {"logLineCount": 0, "historyLineCount": len(run.lines), "eventsLineCount": run.events}
            tails = {"historyTail": json.dumps([last]), "eventsTail": json.dumps([json.dumps({"_runtime": 1})])}
            kept = {
                "config": json.dumps(run.config),
                "summaryMetrics": json.dumps(run.summary),
                "tags": run.fields["tags"],
            }
            named = {
                "id": run.id,
                "name": run.name,
                "displayName": run.name,
                "notes": "",
                "wandbConfig": json.dumps({"t": 1}),
            }
            bucket = {**named, **counts, **tails, **kept}
        return {"model": {**project_node(project, entity), "bucket": bucket}}

    def on_run_stopped_status(self, v):
        return {"project": {"run": {"stopped": False}}}

    def on_create_run_files(self, v):
        where = f"{self.url}/upload/{v['entity']}/{v['project']}/{v['run']}"
        files = [{"name": name, "uploadUrl": f"{where}/{name}"} for name in v["files"]]
        return {"createRunFiles": {"runID": "1", "uploadHeaders": [], "files": files}}

    def on_mark_run_files_uploaded(self, v):
        return {"markRunFilesUploaded": {"success": True}}

    def on_run(self, v):
        run = self.runs.get(f"{v['entity']}/{v['project']}/{v['name']}")
        return {"project": {"run": run.node() if run else None}}

    def streamed(self, run, body):
        """Take lines of a run's history and summary, and its end."""
        for name, content in (body.get("files") or {}).items():
            if name == "wandb-history.jsonl":
                run.lines |= {content["offset"] + number: line for number, line in enumerate(content["content"])}
            elif name == "wandb-summary.json":
                run.summary |= json.loads(content["content"][-1])
            elif name == "wandb-events.jsonl":
                run.events = content["offset"] + len(content["content"])
        run.preempting |= bool(body.get("preempting"))
        if body.get("complete"):
            run.exit_code = body.get("exitcode")
            run.state = "failed" if run.exit_code else "finished"

    # -- artifacts ---------------------------------------------------------------------------------

    def on_create_artifact(self, v):
        given = v["input"]
        given["entityName"] = given["entityName"] or ENTITY  # a run kept offline knows no entity
        key = f"{given['entityName']}/{given['projectName']}/{given['artifactCollectionName']}"
        versions = [artifact for artifact in self.artifacts.values() if artifact["key"] == key]
        aliases = [entry["alias"] for entry in given.get("aliases") or []]
        latest = {"latestArtifact": {"id": versions[-1]["id"]} if versions else None}
        for artifact in versions:
            if artifact["digest"] == given["digest"]:
                artifact["aliases"] = sorted({*artifact["aliases"], *aliases})
                artifact["clients"].append(given["clientID"])
                self.edges.append((given.get("runName"), "made", self.label(artifact)))
                return {
                    "createArtifact": {
                        "artifact": {"id": artifact["id"], "state": "COMMITTED", "artifactSequence": latest}
                    }
                }
        made = {
            "id": identifier("Artifact", uuid.uuid4()),
            "key": key,
            "name": given["artifactCollectionName"],
            "version": len(versions),
        }
        made |= {
            "type": given["artifactTypeName"],
            "digest": given["digest"],
            "aliases": aliases,
            "metadata": given.get("metadata"),
        }
        made |= {
            "state": "PENDING",
            "clients": [given["clientID"]],
            "entity": given["entityName"],
            "project": given["projectName"],
        }
        for artifact in versions:
            artifact["aliases"] = [alias for alias in artifact["aliases"] if alias not in aliases]
        self.artifacts[made["id"]] = made
        self.edges.append((given.get("runName"), "made", self.label(made)))
        return {"createArtifact": {"artifact": {"id": made["id"], "state": "PENDING", "artifactSequence": latest}}}

    @staticmethod
    def label(artifact):
        return f"{artifact['name']}:v{artifact['version']}"

    def on_create_artifact_manifest(self, v):
        file = {"id": "1", "uploadUrl": f"{self.url}/upload/manifest/{v['artifactID']}", "uploadHeaders": []}
        return {
            "createArtifactManifest": {
                "artifactManifest": {"id": identifier("Manifest", v["artifactID"]), "file": file}
            }
        }

    def on_update_artifact_manifest(self, v):
        manifest = v["artifactManifestID"]
        file = {"id": "1", "uploadUrl": f"{self.url}/upload/manifest/{decoded(manifest)}", "uploadHeaders": []}
        return {"updateArtifactManifest": {"artifactManifest": {"id": manifest, "file": file}}}

    def on_create_artifact_files(self, v):
        nodes = []
        for file in (v.get("input") or v)["artifactFiles"]:
            where = {
                "storagePath": f"x/{file['name']}",
                "uploadUrl": f"{self.url}/upload/artifact/{file['artifactID']}/{file['name']}",
            }
            nodes.append(
                {**where, "uploadHeaders": [], "uploadMultipartUrls": None, "artifact": {"id": file["artifactID"]}}
            )
        return {"createArtifactFiles": {"files": page(nodes)}}

    def on_commit_artifact(self, v):
        artifact = self.artifacts[v["artifactID"]]
        artifact["state"] = "COMMITTED"
        return {"commitArtifact": {"artifact": {"id": artifact["id"], "digest": artifact["digest"]}}}

    def on_use_artifact(self, v):
        given = v.get("input") or v
        artifact = self.artifacts[given["artifactID"]]
        self.edges.append((given["runName"], "used", self.label(artifact)))
        return {"useArtifact": {"artifact": {"id": artifact["id"]}}}

    def on_client_id_mapping(self, v):
        found = [artifact for artifact in self.artifacts.values() if v["clientID"] in artifact["clients"]]
        return {"clientIDMapping": {"serverID": found[0]["id"]} if found else None}

    def on_artifact_type(self, v):
        found = [artifact for artifact in self.artifacts.values() if artifact["name"] == v["name"].partition(":")[0]]
        return {"project": {"artifact": {"artifactType": {"name": found[0]["type"]}} if found else None}}

    def on_artifact_membership_by_name(self, v):
        name, _, wanted = v["name"].partition(":")
        key = f"{v.get('entity') or ENTITY}/{v.get('project')}/{name}"
        for artifact in reversed(self.artifacts.values()):
            if artifact["key"] == key and (
                (wanted or "latest") in artifact["aliases"] or wanted == f"v{artifact['version']}"
            ):
                member = {
                    "__typename": "ArtifactCollectionMembership",
                    "id": identifier("Membership", artifact["id"]),
                    "createdAt": WHEN,
                }
                aliases = [
                    {"__typename": "ArtifactAlias", "id": identifier("Alias", a), "alias": a}
                    for a in artifact["aliases"]
                ]
                member |= {"versionIndex": artifact["version"], "aliases": aliases}
                member |= {"artifactCollection": self.collection(artifact), "artifact": self.artifact_node(artifact)}
                return {"project": {"artifactCollectionMembership": member}}
        return {"project": {"artifactCollectionMembership": None}}

    def on_fetch_artifact_manifest(self, v):
        file = {"directUrl": f"{self.url}/upload/manifest/{v['id']}", "id": "1"}
        return {"artifact": {"currentManifest": {"id": identifier("Manifest", v["id"]), "file": file}}}

    def collection(self, artifact):
        place = project_node(artifact["project"], artifact["entity"])
        return {
            "__typename": "ArtifactSequence",
            "id": identifier("Sequence", artifact["key"]),
            "name": artifact["name"],
            "project": place,
        }

    def artifact_node(self, artifact):
        kind = {"__typename": "ArtifactType", "id": "1", "name": artifact["type"]}
        collection = self.collection(artifact)
        alias = {"__typename": "ArtifactAlias", "artifactCollection": collection}
        aliases = [{**alias, "id": identifier("Alias", name), "alias": name} for name in artifact["aliases"]]
        node = {
            "__typename": "Artifact",
            "id": artifact["id"],
            "artifactSequence": collection,
            "versionIndex": artifact["version"],
        }
        node |= {
            "artifactType": kind,
            "type": kind,
            "description": None,
            "metadata": artifact["metadata"] or "{}",
            "aliases": aliases,
        }
        node |= {
            "ttlDurationSeconds": -1,
            "ttlIsInherited": False,
            "tags": [],
            "historyStep": None,
            "state": artifact["state"],
            "size": 1,
        }
        node |= {
            "digest": artifact["digest"],
            "commitHash": "1",
            "fileCount": 1,
            "createdAt": WHEN,
            "updatedAt": None,
            "storageBytes": 1,
        }
        return node | {
            "currentManifest": {
                "id": "1",
                "file": {"directUrl": f"{self.url}/upload/manifest/{artifact['id']}", "id": "1"},
            }
        }

    # -- dashboards --------------------------------------------------------------------------------

    def on_upsert_view(self, v):
        key = v.get("id") or identifier("View", uuid.uuid4())
        self.views[key] = {**v, "id": key}
        place = {**project_node(v["projectName"], v["entityName"]), "entityName": v["entityName"]}
        named = {
            "id": key,
            "name": v.get("name") or "x",
            "displayName": v.get("displayName"),
            "description": v.get("description"),
        }
        about = {"type": v.get("type"), "createdAt": WHEN, "updatedAt": WHEN, "spec": v["spec"], "project": place}
        user = {"name": ENTITY, "username": ENTITY, "userInfo": {}}
        return {"upsertView": {"view": {**named, **about, "user": user}, "inserted": True}}

    on_upsert_view2 = on_upsert_view


class Quiet(ThreadingHTTPServer):
    daemon_threads = True

    def handle_error(self, *arguments):
        """The client drops idle connections."""


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    store: Server

    def log_message(self, *arguments):
        pass

    def body(self):
        data = self.rfile.read(int(self.headers.get("content-length") or 0))
        return gzip.decompress(data) if self.headers.get("content-encoding") == "gzip" else data

    def reply(self, data, code=200):
        self.send_response(code)
        self.send_header("content-type", "application/json")
        self.send_header("content-length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)

    def say(self, content, code=200):
        self.reply(json.dumps(content).encode(), code)

    def do_POST(self):
        data = self.body()
        time.sleep(self.store.delay)
        if self.path == "/graphql":
            asked = json.loads(data)
            named = re.search(r"(?:query|mutation)\s+(\w+)", asked["query"])
            with self.store.lock:
                operation = asked.get("operationName") or (named.group(1) if named else "?")
                answer = self.store.answer(operation, asked.get("variables") or {})
            return self.say({"data": answer})
        stream = re.match(r"/files/([^/]+)/([^/]+)/([^/]+)/file_stream", self.path)
        if self.path.startswith("/sdk/otel/"):  # how the client itself fares
            return self.say({})
        if stream is None:
            self.store.unknown.append((self.path, None))
            return self.say({}, 404)
        with self.store.lock:
            self.store.streamed(self.store.run(*stream.groups()), json.loads(data))
        return self.say({"limits": {}, "exitcode": None})

    def do_PUT(self):
        data = self.body()
        with self.store.lock:
            self.store.uploads[self.path.removeprefix("/upload/")] = data
        self.say({})

    def do_GET(self):
        found = self.store.uploads.get(self.path.removeprefix("/upload/"))
        self.reply(found or b"", 200 if found is not None else 404)
