"""What training together sends over a network, and what a slower network costs.

    sudo python benchmarks/speed/network.py --data flickr8k

Two hosts of one machine (network namespaces, so Linux and root), each with one thread, joined by a
link that carries no more than the rate named. They train by the trainer's own steps; the bytes are
those that the link counted, beside what parameters and batch say must be sent.
"""

import argparse
import json
import os
import socket
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

os.environ["OMP_NUM_THREADS"] = "1"
os.environ["OMP_WAIT_POLICY"] = "passive"

from material import Material
from rich.console import Console
from rich.table import Table
from torch import distributed as dist
from torch.distributed.tensor.parallel import loss_parallel

from dualpath.data.captions import PixelSource
from training import Steps, kept_steps

HOSTS = ("10.77.0.1", "10.77.0.2")
RATES = ("100mbit", "1gbit", "10gbit")
NUMBER = 4  # bytes


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--data", type=Path, required=True, help="captioned images")
    parser.add_argument("--steps", type=int, default=5)
    parser.add_argument("--worker", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.worker:
        print(json.dumps(_work(options.data, options.worker, options.steps)))
        return
    table = Table("stage", "link", "seconds a step", "MiB sent a step", "must be sent")
    for stage in ("Stage I of flickr8k", "Stage II of flickr30k"):
        alone = _launch(options, stage, hosts=1)
        table.add_row(stage, "one host", f"{alone['seconds']:.2f}", "", "")
        for rate in RATES:
            with _link(rate) as interfaces:
                found = _launch(options, stage, hosts=2, interfaces=interfaces)
            table.add_row(
                stage,
                rate,
                f"{found['seconds']:.2f}",
                f"{found['sent'] / 2**20:.1f}",
                f"{found['needed'] / 2**20:.1f}",
            )
    Console(width=120).print(table)


def _work(data: Path, stage: str, count: int) -> dict[str, float]:
    """Be one of the hosts."""
    with tempfile.TemporaryDirectory() as scratch:
        material = Material(data, Path(scratch), images=64)
        steps = _steps_of(material, stage)
        interface = os.environ.get("GLOO_SOCKET_IFNAME")
        seconds, sent = [], []
        with loss_parallel():
            for _ in range(count + 1):
                if interface:
                    dist.barrier()
                before, begun = _sent(interface), time.perf_counter()
                steps.step()
                seconds.append(time.perf_counter() - begun)
                sent.append(_sent(interface) - before)
    trained = sum(p.numel() for p in steps.network.parameters() if p.requires_grad)
    captions = steps.stage.batch_size * steps.stage.captions_per_image
    # Forwards, back, and back from the classifier, of which each host has a part.
    features = 3 * (steps.stage.batch_size + captions) * steps.recipe.dim
    return {
        "seconds": statistics.median(seconds[1:]),
        "sent": statistics.median(sent[1:]),
        "needed": NUMBER * (trained + features),
    }


def _steps_of(material: Material, stage: str) -> Steps:
    if stage.startswith("Stage I of"):
        return kept_steps(material, "flickr8k")[1]
    recipe = material.recipe("flickr30k", test_size=None)
    second = recipe.stages[-1].model_copy(update={"backbone": "trained_running_norm"})
    images = PixelSource(material.files, 224, second.flip, second.crops)
    return Steps(recipe, second, material, images, workers=0)


def _launch(
    options: argparse.Namespace, stage: str, *, hosts: int, interfaces: tuple[str, ...] = ()
) -> dict[str, float]:
    command = [sys.executable, __file__, "--data", str(options.data.resolve())]
    command += ["--steps", str(options.steps), "--worker", stage]
    port = str(_free_port())
    running = []
    for number in range(hosts):
        told = dict(os.environ)
        if interfaces:
            told |= {"RANK": str(number), "LOCAL_RANK": "0", "WORLD_SIZE": str(hosts)}
            told |= {"MASTER_ADDR": HOSTS[0], "MASTER_PORT": port}
            told["GLOO_SOCKET_IFNAME"] = interfaces[number]
        place = ["ip", "netns", "exec", f"host{number}"] if interfaces else []
        running.append(
            subprocess.Popen([*place, *command], env=told, stdout=subprocess.PIPE, text=True)
        )
    answers = [process.communicate()[0] for process in running]
    if any(process.returncode for process in running):
        raise SystemExit(f"{stage}: a host failed")
    found: dict[str, float] = json.loads(answers[0].splitlines()[-1])
    return found


@contextmanager
def _link(rate: str) -> Iterator[tuple[str, ...]]:
    """Join two hosts by a link of a rate; yield the names of its two ends."""
    ends = ("end0", "end1")
    for number in range(2):
        _run("ip", "netns", "add", f"host{number}")
    try:
        _run("ip", "link", "add", ends[0], "netns", "host0", "type", "veth",
             "peer", "name", ends[1], "netns", "host1")  # fmt: skip
        for number, (end, address) in enumerate(zip(ends, HOSTS, strict=True)):
            inside = ("ip", "netns", "exec", f"host{number}")
            _run(*inside, "ip", "addr", "add", f"{address}/24", "dev", end)
            for device in ("lo", end):
                _run(*inside, "ip", "link", "set", device, "up")
            shaped = ("rate", rate, "burst", "4mb", "latency", "50ms")
            _run(*inside, "tc", "qdisc", "add", "dev", end, "root", "tbf", *shaped)
        yield ends
    finally:
        for number in range(2):
            _run("ip", "netns", "delete", f"host{number}")


def _sent(interface: str | None) -> int:
    if interface is None:
        return 0
    return int(Path(f"/sys/class/net/{interface}/statistics/tx_bytes").read_text())


def _free_port() -> int:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return int(free.getsockname()[1])


def _run(*command: str) -> None:
    subprocess.run(command, check=True)


if __name__ == "__main__":
    main()
