"""Measure what training on two hosts sends over a network, and what a slow network costs.

    sudo python benchmarks/speed/network.py --data flickr8k

Two hosts of one machine (network namespaces, so Linux and root) with one thread each are joined by
a link of a limited rate. They train by the trainer's own steps. The table compares the bytes that
the link counts with the bytes that the number of weights and the size of the batch demand.
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
sys.path.append(str(Path(__file__).parents[1]))

from material import Material
from rich.console import Console
from rich.table import Table
from steps import Steps, cached_feature_steps
from torch import distributed as dist
from torch.distributed.tensor.parallel import loss_parallel

from common import command_line
from dualpath.training.batches import PixelSource

HOSTS = ("10.77.0.1", "10.77.0.2")
LINK_ENDS = ("end0", "end1")
RATES = ("100mbit", "1gbit", "10gbit")
STAGES = ("Stage I of flickr8k", "Stage II of flickr30k")
BYTES_PER_NUMBER = 4


def run_host(data: Path, stage: str, count: int) -> dict[str, float]:
    """Train as one of the hosts; return seconds and bytes per step."""
    with tempfile.TemporaryDirectory() as scratch:
        material = Material(data, Path(scratch), count=64)
        steps = build_steps(material, stage)
        interface = os.environ.get("GLOO_SOCKET_IFNAME")
        seconds, sent = [], []
        with loss_parallel():
            for _ in range(count + 1):
                if interface:
                    dist.barrier()
                sent_before, start = count_sent(interface), time.perf_counter()
                steps.step()
                seconds.append(time.perf_counter() - start)
                sent.append(count_sent(interface) - sent_before)
    weights = sum(p.numel() for p in steps.network.parameters() if p.requires_grad)
    captions = steps.stage.batch_size * steps.stage.captions_per_image
    # Features are sent forward and their gradients back, and once more from the classifier, of
    # which each host holds a part.
    features = 3 * (steps.stage.batch_size + captions) * steps.recipe.dim
    return {
        "seconds": statistics.median(seconds[1:]),
        "sent": statistics.median(sent[1:]),
        "demanded": BYTES_PER_NUMBER * (weights + features),
    }


def build_steps(material: Material, stage: str) -> Steps:
    if stage == STAGES[0]:
        return cached_feature_steps(material, "flickr8k")
    recipe = material.recipe("flickr30k", test_size=None)
    second = recipe.stages[-1].model_copy(update={"backbone": "trained_running_norm"})
    source = PixelSource(material.files, 224, second.flip, second.crops)
    return Steps(recipe, second, material, source, workers=0)


def launch_hosts(
    options: argparse.Namespace, stage: str, interfaces: tuple[str, ...] = ()
) -> dict[str, float]:
    """Train on a host for each interface, or on one host; return the result of the first."""
    command = [sys.executable, __file__, "--data", str(options.data.resolve())]
    command += ["--steps", str(options.steps), "--host", stage]
    port, hosts = str(free_port()), max(1, len(interfaces))
    processes = []
    for number in range(hosts):
        environment, prefix = dict(os.environ), []
        if interfaces:
            environment |= {"RANK": str(number), "LOCAL_RANK": "0", "WORLD_SIZE": str(hosts)}
            environment |= {"MASTER_ADDR": HOSTS[0], "MASTER_PORT": port}
            environment["GLOO_SOCKET_IFNAME"] = interfaces[number]
            prefix = ["ip", "netns", "exec", f"host{number}"]
        processes.append(
            subprocess.Popen(
                [*prefix, *command], env=environment, stdout=subprocess.PIPE, text=True
            )
        )
    outputs = [process.communicate()[0] for process in processes]
    if any(process.returncode for process in processes):
        raise SystemExit(f"{stage}: a host failed")
    result: dict[str, float] = json.loads(outputs[0].splitlines()[-1])
    return result


@contextmanager
def link(rate: str) -> Iterator[tuple[str, ...]]:
    """Join two hosts by a link of a rate; yield the names of its two ends."""
    for number in range(2):
        run("ip", "netns", "add", f"host{number}")
    try:
        peer = ("peer", "name", LINK_ENDS[1], "netns", "host1")
        run("ip", "link", "add", LINK_ENDS[0], "netns", "host0", "type", "veth", *peer)
        for number, (end, address) in enumerate(zip(LINK_ENDS, HOSTS, strict=True)):
            inside = ("ip", "netns", "exec", f"host{number}")
            run(*inside, "ip", "addr", "add", f"{address}/24", "dev", end)
            for device in ("lo", end):
                run(*inside, "ip", "link", "set", device, "up")
            limit = ("rate", rate, "burst", "4mb", "latency", "50ms")
            run(*inside, "tc", "qdisc", "add", "dev", end, "root", "tbf", *limit)
        yield LINK_ENDS
    finally:
        for number in range(2):
            run("ip", "netns", "delete", f"host{number}")


def count_sent(interface: str | None) -> int:
    """Return the bytes that an interface has sent."""
    if interface is None:
        return 0
    return int(Path(f"/sys/class/net/{interface}/statistics/tx_bytes").read_text())


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def run(*command: str) -> None:
    subprocess.run(command, check=True)


def main() -> None:
    parser = command_line(__doc__)
    parser.add_argument("--data", type=Path, required=True, help="folder with a manifest")
    parser.add_argument("--steps", type=int, default=5, help="of each row; default: 5")
    parser.add_argument("--stages", nargs="+", choices=STAGES, default=STAGES, help="default: both")
    parser.add_argument("--rates", nargs="+", default=RATES, help=f"default: {' '.join(RATES)}")
    parser.add_argument("--host", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.host:
        print(json.dumps(run_host(options.data, options.host, options.steps)))
        return
    table = Table("stage", "link", "seconds per step", "MiB sent per step", "MiB demanded")
    for stage in options.stages:
        alone = launch_hosts(options, stage)
        table.add_row(stage, "one host", f"{alone['seconds']:.2f}", "", "")
        for rate in options.rates:
            with link(rate) as interfaces:
                result = launch_hosts(options, stage, interfaces)
            mebibytes = (f"{result[name] / 2**20:.1f}" for name in ("sent", "demanded"))
            table.add_row(stage, rate, f"{result['seconds']:.2f}", *mebibytes)
    Console(width=120).print(table)


if __name__ == "__main__":
    main()
