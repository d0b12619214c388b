"""The training loop: stages, epochs, steps, validation, checkpoints.

Whatever is drawn at random in a step is drawn from generators seeded by (seed, stage, epoch,
step). A training continued from a checkpoint therefore goes through the same steps, to the same
weights, as one that was never interrupted.
"""

import time
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.distributed.tensor.parallel import loss_parallel
from torch.utils.data import DataLoader

from dualpath.allocator import give_back_freed_memory, keep_freed_memory
from dualpath.data.pairs import (
    Batch,
    EpochPlan,
    FeaturePictures,
    PairDataset,
    tabulate_captions,
)
from dualpath.embedding import DualPath
from dualpath.processes import processes
from dualpath.recipe import StageRecipe
from dualpath.training.checkpoints import Progress
from dualpath.training.distillation import Teacher
from dualpath.training.interrupts import deferred_interrupts, ignore_interrupts
from dualpath.training.prepare import TrainingData
from dualpath.training.progress import Display
from dualpath.training.shards import load_training, save_training
from dualpath.training.stage_data import StageData, stage_data
from dualpath.training.stages import (
    Optimizers,
    build_classifier,
    build_optimizers,
    freeze,
    rate_factor,
    set_learning_rate,
)
from dualpath.training.step import step_losses
from dualpath.training.together import (
    TrainingError,
    accelerator_for,
    any_process,
    lost_process,
    share_batch_statistics,
)
from dualpath.training.validation import validate

LAST, BEST = "last.pt", "best.pt"


class Trainer:
    """Train a model through the stages of its recipe.

    Args:
        model: the network with its tokenizer and (complete) recipe; trained in place.
        data: captioned pictures.
        class_of: (instances,) int64, the class of each training instance.
        folder: for checkpoints and logs; a checkpoint found in it is continued.
        cache: folder for backbone features.
    """

    def __init__(
        self,
        model: DualPath,
        data: TrainingData,
        class_of: Tensor,
        folder: Path,
        cache: Path,
        display: Display,
    ) -> None:
        self._model, self._data, self._folder = model, data, folder
        self._cache, self._display = cache, display
        self._recipe = model.recipe
        self._accelerator = accelerator_for(model, folder)
        model.device = self._accelerator.device
        self._train_table = tabulate_captions(data.train, model.tokenizer, cache)
        torch.manual_seed(self._recipe.seed)
        self._plain_network: Any = model.network.to(self._accelerator.device)
        self._network: nn.Module = self._plain_network  # of a stage: around what it trains
        self._classifier = build_classifier(self._recipe, class_of).to(self._accelerator.device)
        self._progress = Progress()
        self._optimizers: Optimizers | None = None
        self._saved_at = time.monotonic()

    def run(self) -> dict[str, Any]:
        """Train to the end and return the metrics of the kept weights, with the history.

        Raises:
            TrainingError: a loss is no number any more.
            CheckpointError: a checkpoint cannot be read or written.
        """
        self._accelerator.init_trackers("log")
        optimizer_states = self._restore()
        try:
            with loss_parallel():  # a softmax over the classes of all processes
                while self._progress.stage < len(self._recipe.stages):
                    self._run_stage(self._recipe.stages[self._progress.stage], optimizer_states)
                    optimizer_states = None
        except RuntimeError as error:
            lost = lost_process(error)
            if lost is not None:
                raise lost from error
            raise
        finally:
            for tracker in self._accelerator.trackers:
                tracker.finish()
        history = self._progress.history
        last = history[-1].get("validation", {})
        validation = self._progress.best if self._recipe.keep == "best" else last
        return {"validation": validation, "history": history}

    def _run_stage(self, stage: StageRecipe, optimizer_states: list[dict[str, Any]] | None) -> None:
        network, progress = self._plain_network, self._progress
        with self._accelerator.main_process_first():  # it fills the caches that the others read
            teacher = self._meet_teacher(stage)
            data = stage_data(
                self._model,
                self._data,
                self._train_table,
                stage,
                teacher.targets if teacher else None,
                self._cache,
                self._display,
            )
        freeze(network, stage)
        keep_freed_memory(training=stage.backbone.startswith("trained"))
        give_back_freed_memory()
        if processes() > 1:
            share_batch_statistics(network, stage)
        self._network = self._accelerator.prepare_model(network)
        optimizers = Optimizers(
            *(
                self._accelerator.prepare_optimizer(optimizer)
                for optimizer in build_optimizers(stage.optimizer, network, self._classifier)
            )
        )
        for optimizer, state in zip(optimizers, optimizer_states or (), strict=False):
            optimizer.load_state_dict(state)
        self._optimizers = optimizers
        for epoch in range(progress.epoch, stage.epochs):
            self._run_epoch(stage, data.train, teacher, optimizers)
            last = epoch + 1 == stage.epochs
            if last or (epoch + 1) % stage.validate_every == 0:
                self._validate(stage, data)
            self._display.epoch_done(progress.history[-1])
            progress.epoch, progress.step = epoch + 1, 0
            if last:
                self._end_stage()
            self._save()

    def _meet_teacher(self, stage: StageRecipe) -> Teacher | None:
        """Return the teacher of a stage; a stage that begins takes over its image path."""
        if stage.distillation is None:
            return None
        teacher = Teacher(
            stage.distillation,
            list(self._data.train.captions),
            self._model.tokenizer.encode,
            self._recipe.dim,
            self._cache,
            self._display,
        )
        if self._progress.epoch == self._progress.step == 0:
            teacher.hand_over_images(self._plain_network)
        return teacher

    def _end_stage(self) -> None:
        """Go to the next stage, from the best weights so far where the recipe keeps the best."""
        if self._recipe.keep == "best" and self._progress.best:
            load_training(self._folder / BEST, self._plain_network, self._classifier)
        self._optimizers = None
        self._progress.stage += 1
        self._progress.epoch = 0

    def _run_epoch(
        self,
        stage: StageRecipe,
        dataset: PairDataset,
        teacher: Teacher | None,
        optimizers: Optimizers,
    ) -> None:
        progress, plan = self._progress, self._rest_of_epoch(stage)
        workers = 0 if isinstance(dataset.pictures, FeaturePictures) else self._recipe.workers
        if workers:
            give_back_freed_memory()
        loader = DataLoader(
            dataset,
            sampler=plan,
            batch_size=None,
            num_workers=workers,
            worker_init_fn=ignore_interrupts,
            pin_memory=self._accelerator.device.type == "cuda",
        )
        self._network.train()
        self._classifier.train()
        title = f"{stage.name} {progress.epoch + 1}/{stage.epochs}"
        with (
            deferred_interrupts() as interrupted,
            self._display.epoch(title, total=len(plan), done=progress.step) as bar,
        ):
            for batch in loader:
                step = progress.epoch * len(plan) + progress.step
                set_learning_rate(
                    optimizers, rate_factor(stage.schedule, step, len(plan), stage.epochs)
                )
                batch = batch.to(self._accelerator.device)
                losses = self._step(stage, batch, teacher, optimizers)
                progress.step += 1
                for name, value in losses.items():
                    progress.totals[name] = progress.totals.get(name, 0.0) + value
                bar.update(pictures=len(batch.instance_ids), losses=losses)
                self._accelerator.log(
                    {f"{stage.name}/{name}": value for name, value in losses.items()}, step=step
                )
                due = time.monotonic() - self._saved_at >= 60 * self._recipe.checkpoint_minutes
                stop, due = any_process(interrupted(), due)
                if due or stop:
                    self._save()
                if stop:
                    raise KeyboardInterrupt
        if any(any_process(interrupted())):  # after the last step was asked
            self._save()
            raise KeyboardInterrupt
        means = {name: total / len(plan) for name, total in progress.totals.items()}
        progress.totals = {}
        progress.history.append({"stage": stage.name, "epoch": progress.epoch + 1, "losses": means})

    def _rest_of_epoch(self, stage: StageRecipe) -> EpochPlan:
        progress = self._progress
        return EpochPlan(
            self._train_table,
            batch_size=stage.batch_size,
            captions_per_picture=stage.captions_per_picture,
            of_instance=stage.captions_of == "instance",
            seed=(self._recipe.seed, progress.stage, progress.epoch),
            start=progress.step,
        )

    def _step(
        self,
        stage: StageRecipe,
        batch: Batch,
        teacher: Teacher | None,
        optimizers: Optimizers,
    ) -> dict[str, float]:
        progress, recipe = self._progress, self._recipe
        place = (recipe.seed, progress.stage, progress.epoch, progress.step)
        losses = step_losses(
            self._network,
            self._classifier,
            batch,
            recipe=recipe,
            stage=stage,
            table=self._train_table,
            teacher=teacher,
            seed=int(np.random.SeedSequence(place).generate_state(1)[0]),
            accelerator=self._accelerator,
        )
        values = {name: float(value.detach()) for name, value in losses.items()}
        if not np.isfinite(sum(values.values())):
            raise TrainingError(self._not_finite(stage, values))
        for optimizer in optimizers:
            optimizer.zero_grad(set_to_none=True)
        self._accelerator.backward(torch.stack(list(losses.values())).sum())
        for optimizer in optimizers:
            optimizer.step()
        return values

    def _not_finite(self, stage: StageRecipe, values: dict[str, float]) -> str:
        progress = self._progress
        plan = next(iter(self._rest_of_epoch(stage)))
        names = [self._data.train[i].file_name for i in plan.pictures]
        listed = ", ".join(names[:4]) + (f" and {len(names) - 4} more" if len(names) > 4 else "")
        losses = ", ".join(f"{name} {value:g}" for name, value in values.items())
        return (
            f"stage {stage.name}, epoch {progress.epoch + 1}, step {progress.step + 1}: the loss "
            f"is not finite ({losses}); the batch: {listed}. Lower the stage's optimizer.lr, or "
            "raise schedule.warmup"
        )

    def _validate(self, stage: StageRecipe, data: StageData) -> None:
        """Measure retrieval on the validation split and keep the weights if they are the best."""
        if not self._data.val:
            return
        metrics = validate(self._model, self._data.val, data.val_features, data.val_sentences)
        entry = self._progress.history[-1]
        entry["validation"] = metrics
        step = self._progress.epoch + 1
        self._accelerator.log({f"{stage.name}/validation_rsum": metrics["rsum"]}, step=step)
        if metrics["rsum"] > self._progress.best.get("rsum", -1.0):
            self._progress.best = {**metrics, "stage": stage.name, "epoch": step}
            self._write(BEST, None)

    def _save(self) -> None:
        self._write(LAST, self._optimizers)
        self._saved_at = time.monotonic()

    def _write(self, name: str, optimizers: Optimizers | None) -> None:
        path = self._folder / name
        save_training(path, self._plain_network, self._classifier, optimizers, self._progress)

    def _restore(self) -> list[dict[str, Any]] | None:
        """Load the last checkpoint, if there is one, and return the states of the optimisers."""
        if not (self._folder / LAST).exists():
            return None
        self._progress, optimizer_states = load_training(
            self._folder / LAST, self._plain_network, self._classifier
        )
        return optimizer_states
