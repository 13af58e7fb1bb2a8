"""Runs a function in real processes that form a gloo group, as ranks of one training would."""

import os
import socket
import traceback

from tests.forked import SERVER


def in_ranks(function, world, *arguments, timeout=180):
    """Call `function(rank, world, *arguments)` in `world` processes; returns what each gave, in rank order."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    queue = SERVER.Queue()
    started = [
        SERVER.Process(target=_rank, args=(function, rank, world, port, queue, arguments)) for rank in range(world)
    ]
    for process in started:
        process.start()
    try:
        answers = dict(queue.get(timeout=timeout) for _ in range(world))
    finally:
        for process in started:
            process.join(20)
            if process.is_alive():
                process.kill()
    failed = [answer for answer in answers.values() if isinstance(answer, str) and answer.startswith("Traceback")]
    assert not failed, failed[0]
    return [answers[rank] for rank in range(world)]


def _rank(function, rank, world, port, queue, arguments):
    os.environ |= {"RANK": str(rank), "LOCAL_RANK": str(rank), "WORLD_SIZE": str(world), "LOCAL_WORLD_SIZE": str(world)}
    os.environ |= {
        "MASTER_ADDR": "127.0.0.1",
        "MASTER_PORT": str(port),
        "TORCHELASTIC_RUN_ID": "test",
        "GROUP_RANK": "0",
    }
    import torch

    torch.set_num_threads(1)
    try:
        queue.put((rank, function(rank, world, *arguments)))
    except BaseException:
        queue.put((rank, traceback.format_exc()))


def start_group(rank, world):
    """Join the gloo group that the environment describes."""
    import torch.distributed as dist

    dist.init_process_group("gloo", rank=rank, world_size=world)
