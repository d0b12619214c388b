"""Run one part; ``bench.py`` starts it, or by hand: ``parts.py steps --device cuda --scratch DIR``.

It waits for a line on its standard input before it starts (by hand: press Enter).
"""

import argparse
import sys
from pathlib import Path

import torch
from classes import measure_classes
from drawing import draw_images
from embedding import measure_embedding
from end_to_end import measure_end_to_end
from gpu_tests import run_tests
from setting import Setting
from steps import measure_steps
from trainer_loop import measure_profile, measure_trainer

PARTS = {
    "images": draw_images,
    "tests": run_tests,
    "steps": measure_steps,
    "trainer": measure_trainer,
    "profile": measure_profile,
    "embedding": measure_embedding,
    "classes": measure_classes,
    "end_to_end": measure_end_to_end,
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("part", choices=list(PARTS))
    parser.add_argument("--device", default="cuda", choices=["cuda", "cpu"])
    parser.add_argument("--small", action="store_true")
    parser.add_argument("--scratch", type=Path, required=True)
    options = parser.parse_args()
    setting = Setting(torch.device(options.device), options.small, options.scratch, options.part)
    sys.stdin.readline()
    PARTS[options.part](setting)


if __name__ == "__main__":
    main()
