"""W&B: what a run sends and keeps, with the real client, offline and against a loopback stand-in of the server."""

import json
import os
import time

import pytest
import wandb

from pretraining.runs import provenance as lineage
from pretraining.runs import wandb_logger
from pretraining.runs.wandb_logger import Tracked, WandbHistory, key_configured
from tests.experiments import wandb_files, wandb_stub

KEY = "0123456789" * 4
ORIGIN = {
    "name": "temperature 0.1",
    "objective": "SimCLR",
    "backbone": "resnet",
    "data": "Digits",
    "budget": "100 steps",
    "seed": 1,
}
ROWS = {
    5: {
        "train/loss": 4.0,
        "examples": 50.0,
        "images": 50.0,
        "flops": 5e6,
        "time": 1.0,
        "throughput/images_per_second": 50.0,
    },
    10: {
        "train/loss": 3.0,
        "examples": 100.0,
        "images": 100.0,
        "flops": 1e7,
        "time": 2.0,
        "throughput/images_per_second": 51.0,
    },
}


@pytest.fixture
def quiet(tmp_path, monkeypatch):
    """A client that keeps all it writes in a temporary directory, and forgets what an earlier test told it."""
    for name in ("DIR", "CACHE_DIR", "DATA_DIR", "CONFIG_DIR", "ARTIFACT_DIR"):
        monkeypatch.setenv(f"WANDB_{name}", str(tmp_path / "client"))
    (tmp_path / "client").mkdir()
    monkeypatch.setenv("WANDB_ERROR_REPORTING", "false")
    monkeypatch.setattr(wandb_logger, "_told", set())
    monkeypatch.setenv("NETRC", str(tmp_path / "no-netrc"))
    for name in ("WANDB_API_KEY", "WANDB_MODE", "WANDB_SWEEP_ID", "WANDB_RUN_ID", "WANDB_ENTITY"):
        monkeypatch.delenv(name, raising=False)
    wandb.teardown()
    yield monkeypatch
    wandb.teardown()


@pytest.fixture
def server(quiet):
    stub = wandb_stub.Server()
    quiet.setenv("WANDB_BASE_URL", stub.url)
    quiet.setenv("WANDB_API_KEY", KEY)
    yield stub
    wandb.teardown()
    stub.close()


def handoff(directory):
    """Something that looks like a hand-off from outside."""
    step = directory / "handoff" / "step-0000010"
    step.mkdir(parents=True, exist_ok=True)
    (step / "handoff.json").write_text(json.dumps({"origin": ORIGIN | {"steps": 10}}))
    (step / "model.safetensors").write_bytes(b"weights" * 100)
    return step


def history(directory, *, mode="auto", job="pretrain", origin=ORIGIN, patience=20.0, upload_bytes=1e6):
    directory.mkdir(parents=True, exist_ok=True)
    config = {"seed": 1, "pretrain": lineage.columns(origin), "environment": {"git_commit": "abc"}}
    tags = lineage.tags(*(ORIGIN[part] for part in ("objective", "backbone", "data", "budget")))
    tracked = Tracked(project="ssl", name=origin["name"], group="temperature", job_type=job, tags=tags, config=config)
    return WandbHistory(directory, tracked=tracked, mode=mode, patience=patience, upload_bytes=upload_bytes)


def pretrain(directory, rows=ROWS, **options):
    """Log as a pretraining run does: what is evaluated at a step comes in a call of its own."""
    logger = history(directory, **options)
    for step, row in rows.items():
        logger.log_metrics({"validation/loss": row["train/loss"] + 0.5}, step)
        logger.log_metrics(row, step)
    logger.log_handoff(handoff(directory))
    logger.finalize("success")
    return logger


def finetune(directory, parent, source):
    origin = ORIGIN | {"wandb": parent.path, "handoff": "sha", "steps": 10}
    logger = history(directory, job="finetune", origin=origin)
    logger.log_metrics({"test/accuracy": 0.5}, 3)
    logger.finalize("success")
    (directory / "lineage.json").write_text(json.dumps({"path": str(source), "origin": origin}))
    (directory / "config.yaml").write_text("logger: {wandb: {project: ssl}}\n")
    return logger


def read(run_dir):
    """Read what an ended run has left, once the client's own process has closed its files."""
    wandb.teardown()
    return wandb_files.read(run_dir)


def texts(directory):
    return b"".join(path.read_bytes() for path in directory.rglob("*") if path.is_file())


def test_an_offline_run_holds_every_metric_column_and_artifact(quiet, tmp_path, capsys):
    pretrain(tmp_path / "run")
    found = read(tmp_path / "run")
    assert (found["project"], found["group"], found["job_type"], found["name"]) == (
        "ssl",
        "temperature",
        "pretrain",
        "temperature 0.1",
    )
    assert found["tags"] == ["SimCLR", "resnet", "Digits", "100 steps"]
    assert found["config"]["pretrain"] == ORIGIN and found["config"]["environment"] == {"git_commit": "abc"}
    rows = [{key: value for key, value in row.items() if not key.startswith("_")} for row in found["history"]]
    assert rows == [{"step": step, "validation/loss": row["train/loss"] + 0.5, **row} for step, row in ROWS.items()]
    assert found["defined"]["*"] == "step" and {"step", "examples", "images", "flops", "time"} <= set(found["defined"])
    (artifact,) = found["artifacts"]
    assert artifact["type"] == "model" and set(artifact["aliases"]) == {"latest", "step-0000010"}
    assert (
        set(artifact["entries"]) == {"handoff.json", "model.safetensors"}
        and artifact["metadata"]["objective"] == "SimCLR"
    )
    assert found["exit"] == 0
    said = capsys.readouterr().err
    assert said.count("W&B:") == 1 and "wandb login" in said and "wandb_sync" in said


def test_a_finetuning_run_carries_where_its_weights_come_from(quiet, tmp_path):
    parent = pretrain(tmp_path / "pre")
    finetune(tmp_path / "fine", parent, tmp_path / "pre" / "handoff" / "step-0000010")
    columns = read(tmp_path / "fine")["config"]["pretrain"]
    assert (columns["objective"], columns["budget"], columns["name"]) == ("SimCLR", "100 steps", "temperature 0.1")
    assert columns["wandb"] == f"ssl/{parent.version}" and columns["artifact"] == f"ssl/handoff-{parent.version}:latest"
    assert lineage.columns({"objective": "random", "seed": 2})["name"] == "never pretrained"


def test_a_large_hand_off_goes_as_a_reference_to_where_it_lies(quiet, tmp_path):
    pretrain(tmp_path / "run", upload_bytes=100)
    (artifact,) = read(tmp_path / "run")["artifacts"]
    assert "model.safetensors" in artifact["entries"]
    log = next((tmp_path / "run").rglob("*.wandb"))
    assert b"file://" in log.read_bytes()


def test_a_resumed_run_keeps_its_id(quiet, tmp_path):
    first = pretrain(tmp_path / "run", {5: ROWS[5]})
    time.sleep(1.1)  # fragments are named by the second
    again = pretrain(tmp_path / "run", {10: ROWS[10]})
    assert first.version == again.version
    found = read(tmp_path / "run")
    assert [row["step"] for row in found["history"]] == [5, 10]
    assert len(list((tmp_path / "run" / "wandb").glob("offline-run-*"))) == 2


def test_a_preempted_run_says_so(server, tmp_path):
    logger = history(tmp_path / "run")
    logger.log_metrics({"train/loss": 1.0}, 1)
    try:
        raise SystemExit(85)
    except SystemExit:
        logger.finalize("failed")
    (run,) = server.runs.values()
    assert run.preempting


def test_without_a_server_the_run_is_kept_offline_and_nothing_waits_long(quiet, tmp_path, capsys):
    quiet.setenv("WANDB_BASE_URL", "http://127.0.0.1:9")  # nothing listens there
    quiet.setenv("WANDB_API_KEY", KEY)
    begun = time.monotonic()
    pretrain(tmp_path / "run", patience=2.0)
    assert time.monotonic() - begun < 20
    assert [row["step"] for row in read(tmp_path / "run")["history"]] == [5, 10]
    assert "kept offline" in capsys.readouterr().err


def test_a_server_that_stops_answering_holds_up_nothing(server, tmp_path):
    logger = history(tmp_path / "run", patience=3.0)
    logger.log_metrics(ROWS[5], 5)
    logger.save()
    server.delay = 60.0
    begun = time.monotonic()
    for step in range(6, 206):
        logger.log_metrics(ROWS[5], step)
    logger.finalize("success")
    assert time.monotonic() - begun < 20


def test_an_online_run_arrives_whole_and_goes_on_after_a_resume(server, tmp_path):
    first = pretrain(tmp_path / "run", {5: ROWS[5]})
    wandb.teardown()
    pretrain(tmp_path / "run", {10: ROWS[10]})
    assert server.unknown == []
    (run,) = server.runs.values()
    assert run.name == first.version and run.state == "finished" and run.fields["groupName"] == "temperature"
    assert [row["step"] for row in run.history] == [5, 10]
    assert run.plain_config["pretrain"] == ORIGIN and run.fields["tags"] == ["SimCLR", "resnet", "Digits", "100 steps"]
    assert run.summary["train/loss"] == 3.0
    (artifact,) = server.artifacts.values()
    assert artifact["name"] == f"handoff-{first.version}" and artifact["state"] == "COMMITTED"
    assert KEY.encode() not in texts(tmp_path)


def test_offline_runs_are_sent_and_joined_once(server, tmp_path, capsys):
    from experiments import wandb_sync

    parent = pretrain(tmp_path / "pre", {5: ROWS[5]}, mode="offline")
    time.sleep(1.1)
    pretrain(tmp_path / "pre", {10: ROWS[10]}, mode="offline")
    server_key = os.environ.pop("WANDB_API_KEY")
    child = finetune(tmp_path / "fine", parent, tmp_path / "pre" / "handoff" / "step-0000010")
    assert wandb_sync.main([str(tmp_path)]) == 2  # without a key
    os.environ["WANDB_API_KEY"] = server_key
    assert server.runs == {}
    assert wandb_sync.main([str(tmp_path)]) == 0
    assert "3 offline runs sent, 1 of 1 hand-offs joined" in capsys.readouterr().out
    runs = {run.name: run for run in server.runs.values()}
    assert [row["step"] for row in runs[parent.version].history] == [5, 10]
    assert runs[child.version].plain_config["pretrain"]["objective"] == "SimCLR"
    assert (child.version, "used", f"handoff-{parent.version}:v0") in server.edges
    assert (parent.version, "made", f"handoff-{parent.version}:v0") in server.edges
    edges = len(server.edges)
    assert wandb_sync.main([str(tmp_path)]) == 0
    assert "0 offline runs sent, 0 of 0 hand-offs joined" in capsys.readouterr().out and len(server.edges) == edges
    assert server.unknown == []


def test_other_ranks_take_the_first_one_s_id_and_write_nothing(quiet, tmp_path):
    quiet.setenv("RANK", "1")
    other = history(tmp_path / "run")
    (tmp_path / "run").rmdir()  # the first rank has not claimed it yet
    assert other.version == "" and not (tmp_path / "run").exists()
    quiet.setenv("RANK", "0")
    first = history(tmp_path / "run").version
    quiet.setenv("RANK", "1")
    assert other.version == first != ""


def test_a_sweep_s_agent_gives_the_run_its_id(quiet, tmp_path):
    quiet.setenv("WANDB_SWEEP_ID", "sweep1")
    quiet.setenv("WANDB_RUN_ID", "agent123")
    (tmp_path / "run").mkdir()
    assert history(tmp_path / "run").version == "agent123"
    quiet.delenv("WANDB_SWEEP_ID")
    assert history(tmp_path / "run").version == "agent123"
    (tmp_path / "other").mkdir()
    assert history(tmp_path / "other").version != "agent123"


def test_a_key_is_found_without_asking_and_offline_is_obeyed(quiet, tmp_path):
    assert not key_configured()
    quiet.setenv("WANDB_API_KEY", KEY)
    assert key_configured()
    quiet.setenv("WANDB_MODE", "offline")
    assert not key_configured()
    with pytest.raises(ValueError, match="mode=onlin is unknown: choose auto, online"):
        history(tmp_path / "run", mode="onlin")


def test_the_stand_in_lists_what_it_does_not_know():
    stub = wandb_stub.Server()
    stub.answer("SomethingNew", {"a": 1})
    stub.close()
    assert stub.unknown == [("SomethingNew", {"a": 1})]


class Failing:
    """A W&B run of which every call fails."""

    def __getattr__(self, name):
        def fail(*args, **kwargs):
            raise ValueError(f"{name} failed")

        return fail


@pytest.mark.parametrize("call", ["log_metrics", "log_handoff", "log_pictures", "finalize"])
def test_whatever_fails_is_said_once_and_the_run_goes_on(quiet, tmp_path, capsys, call):
    logger = history(tmp_path / "run")
    logger._run, logger._tried = Failing(), True
    given = {"log_handoff": lambda: [handoff(tmp_path)], "finalize": lambda: ["success"]}
    given |= {"log_metrics": lambda: [{"loss": 1.0}, 1], "log_pictures": lambda: [{"views": tmp_path / "none.png"}, 1]}
    getattr(logger, call)(*given[call]())
    for step in (1, 2, 3):
        logger.log_metrics({"loss": 1.0}, step)
    logger.log_handoff(handoff(tmp_path))
    logger.finalize("success")
    said = capsys.readouterr().err
    assert said.count("W&B:") == 1 and "left out" in said


def test_a_client_that_cannot_start_is_said_once(quiet, tmp_path, capsys):
    def fail(**given):
        raise RuntimeError

    quiet.setattr(wandb, "init", fail)
    pretrain(tmp_path / "run")
    assert capsys.readouterr().err == "W&B: this run is left out: RuntimeError\n"


def test_tags_of_one_s_own_are_as_long_as_w_b_takes(quiet, tmp_path):
    from omegaconf import OmegaConf

    from pretraining.cli.configuration import make_loggers

    wandb_settings = {"mode": "offline", "project": "ssl", "patience": 1.0, "upload_bytes": 1.0}
    wandb_settings["tags"] = ["x" * 100, "mine", "SimCLR"]
    config = OmegaConf.create({"name": "n", "group": None, "logger": {"csv": False, "wandb": wandb_settings}})
    (logger,) = make_loggers(config, tmp_path, job_type="pretrain", tags=["SimCLR", "mine"], origin=ORIGIN)
    assert logger.tracked.tags == ["x" * 64, "mine", "SimCLR"]
