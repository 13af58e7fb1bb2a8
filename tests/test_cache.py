"""Files are whole or absent however a write ends, locks go with their processes, and directories are built once."""

import multiprocessing
import os
import signal
import time

import pytest

from pretraining.cache import build_once, is_locked, lock, replace_file, replace_text, try_lock

fork = multiprocessing.get_context("fork")


def in_process(function, *arguments):
    process = fork.Process(target=function, args=arguments)
    process.start()
    return process


def wait_for(condition):
    deadline = time.monotonic() + 30
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.01)


def test_a_file_is_replaced_at_the_end_of_the_block(tmp_path):
    path = tmp_path / "note.txt"
    replace_text(path, "old\n")
    with replace_file(path) as file:
        file.write("new\n")
        assert path.read_text() == "old\n"
    assert path.read_text() == "new\n" and os.listdir(tmp_path) == ["note.txt"]
    with replace_file(path, "wb") as file:
        file.write(b"\0\r\n")
    assert path.read_bytes() == b"\0\r\n"


def test_a_block_that_fails_changes_and_leaves_nothing(tmp_path):
    path = tmp_path / "note.txt"
    replace_text(path, "old\n")
    with pytest.raises(KeyboardInterrupt), replace_file(path) as file:
        file.write("new\n")
        raise KeyboardInterrupt
    assert path.read_text() == "old\n" and os.listdir(tmp_path) == ["note.txt"]
    with pytest.raises(OSError), replace_file(tmp_path / "no" / "such" / "file"):
        pass


def test_what_is_renamed_is_on_disk_and_then_its_directory(tmp_path, monkeypatch):
    done, sync, replace = [], os.fsync, os.replace
    monkeypatch.setattr(
        os, "fsync", lambda fd: (done.append(os.path.basename(os.readlink(f"/proc/self/fd/{fd}"))), sync(fd))
    )
    monkeypatch.setattr(os, "replace", lambda a, b: (done.append("replace"), replace(a, b)))
    replace_text(tmp_path / "note.txt", "whole")
    assert done == [".note.txt.writing", "replace", tmp_path.name]


def write_for_ever(path):
    with replace_file(path) as file:
        file.write("half")
        file.flush()
        time.sleep(60)


def test_a_write_that_is_killed_leaves_the_old_file_and_the_next_write_goes_through(tmp_path):
    path = tmp_path / "note.txt"
    replace_text(path, "old")
    process = in_process(write_for_ever, path)
    wait_for(lambda: (tmp_path / ".note.txt.writing").exists())
    process.kill()
    process.join()
    assert path.read_text() == "old"
    replace_text(path, "new")
    assert path.read_text() == "new" and os.listdir(tmp_path) == ["note.txt"]


def hold(path, held):
    with lock(path) as file:
        file.truncate(0)
        file.write("mine")
        file.flush()
        held.set()
        time.sleep(60)


def test_a_lock_excludes_other_processes_until_its_own_dies_and_says_whose_it_is(tmp_path, capsys):
    path, held = tmp_path / ".lock", fork.Event()
    process = in_process(hold, path, held)
    assert held.wait(30)
    assert try_lock(path) is None and is_locked(path) and path.read_text() == "mine"
    os.kill(process.pid, signal.SIGKILL)
    with lock(path, "waiting for it"):  # the kernel frees it as soon as the process is gone
        assert try_lock(path) is None and is_locked(path)
    process.join()
    assert not is_locked(path) and capsys.readouterr().err in ("", "waiting for it\n")
    with try_lock(path) as file:
        file.seek(0)
        assert file.read() == "mine"


def build_slowly(directory, counter):
    def build(partial):
        with counter.get_lock():
            counter.value += 1
        time.sleep(0.3)
        (partial / "part").write_text("whole")

    build_once(directory, build)


def test_a_directory_is_built_by_one_process_while_the_others_wait(tmp_path):
    directory, counter = tmp_path / "built", fork.Value("i", 0)
    processes = [in_process(build_slowly, directory, counter) for _ in range(3)]
    for process in processes:
        process.join(30)
        assert process.exitcode == 0
    assert counter.value == 1 and (directory / "part").read_text() == "whole"


def test_what_a_failed_build_left_is_there_for_the_next(tmp_path):
    def fails(partial):
        (partial / "first").write_text("done")
        raise RuntimeError("no network")

    with pytest.raises(RuntimeError, match="no network"):
        build_once(tmp_path / "built", fails)
    assert not (tmp_path / "built").exists()
    build_once(tmp_path / "built", lambda partial: (partial / "second").write_text((partial / "first").read_text()))
    assert (tmp_path / "built" / "second").read_text() == "done"
