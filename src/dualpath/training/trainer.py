"""The training loop: stages, epochs, steps, validation, checkpoints.

Everything random in a step is drawn from generators seeded by (seed, stage, epoch, step). A
training that continues from a checkpoint therefore takes the same steps, to the same weights, as
one that was never interrupted.
"""

import time
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.distributed.tensor.parallel import loss_parallel
from torch.utils.data import DataLoader

from dualpath.data.captions import cut_captions_message, tabulate_captions
from dualpath.distributed.collectives import world_size
from dualpath.distributed.process_group import all_reduce_any, peer_failure
from dualpath.inference.model import DualPath
from dualpath.recipes.stages import StageRecipe
from dualpath.training.accelerator import convert_sync_batchnorm, create_accelerator
from dualpath.training.batches import (
    Batch,
    DeviceFeatureSource,
    FeatureSource,
    PairDataset,
    PixelSource,
)
from dualpath.training.checkpoints import TrainingState, load_training, save_training
from dualpath.training.data import TrainingData
from dualpath.training.loss_queue import LossQueue, not_finite_error
from dualpath.training.optim import (
    Optimizers,
    build_classifier,
    build_optimizers,
    freeze,
    lr_multiplier,
    set_learning_rate,
)
from dualpath.training.sampler import EpochSampler
from dualpath.training.stage_data import StageData, stage_data
from dualpath.training.step import step_losses
from dualpath.training.teacher import Teacher
from dualpath.training.validation import validate
from dualpath.utils.memory import trim_heap, tune_malloc
from dualpath.utils.progress import Display, EpochBar
from dualpath.utils.signals import deferred_interrupts, ignore_interrupts

LAST, BEST = "last.pt", "best.pt"


class Trainer:
    """Train a model through the stages of its recipe.

    Args:
        model: the network with its tokenizer and recipe; trained in place.
        data: captioned images.
        class_of: (instances,) int64, the class of each training instance.
        folder: for checkpoints and logs; training continues from a checkpoint in it.
        cache: folder for backbone features.
        display: shows progress.
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
        self._accelerator = create_accelerator(model, folder)
        model.to(self._accelerator.device)
        self._train_table = tabulate_captions(data.train, model.tokenizer, cache)
        if self._train_table.cut:
            display.log(cut_captions_message(self._train_table.cut, model.tokenizer.max_words))
        torch.manual_seed(self._recipe.seed)
        self._plain_network = model.network
        self._network: nn.Module = self._plain_network  # as accelerate prepared it for the stage
        self._classifier = build_classifier(self._recipe, class_of).to(self._accelerator.device)
        self._state = TrainingState()
        self._optimizers: Optimizers | None = None
        self._queue = LossQueue(self._accelerator.device)
        self._saved_at = time.monotonic()

    def run(self) -> dict[str, Any]:
        """Train to the end; return the metrics of the saved weights and the history of all epochs.

        Raises:
            TrainingError: a loss is not finite any more.
            CheckpointError: a checkpoint cannot be read or written.
        """
        self._accelerator.init_trackers("log")
        optimizer_states = self._restore()
        try:
            with loss_parallel():  # the softmax over sharded classes
                while self._state.stage < len(self._recipe.stages):
                    self._run_stage(self._recipe.stages[self._state.stage], optimizer_states)
                    optimizer_states = None
        except RuntimeError as error:
            lost = peer_failure(error)
            if lost is not None:
                raise lost from error
            raise
        finally:
            for tracker in self._accelerator.trackers:
                tracker.finish()
        history = self._state.history
        last = history[-1].get("validation", {})
        validation = self._state.best if self._recipe.keep == "best" else last
        return {"validation": validation, "history": history}

    def _run_stage(self, stage: StageRecipe, optimizer_states: list[dict[str, Any]] | None) -> None:
        network, state = self._plain_network, self._state
        with self._accelerator.main_process_first():  # it fills the caches for the others
            teacher = self._teacher(stage)
            data = stage_data(
                self._model,
                self._data,
                self._train_table,
                stage,
                teacher.targets if teacher else None,
                self._cache,
                self._display,
            )
        if isinstance(data.train.images, FeatureSource):
            data.train.images = data.train.images.to(self._accelerator.device)
        freeze(network, stage)
        tune_malloc(training=stage.backbone.startswith("trained"))
        trim_heap()
        if world_size() > 1:
            convert_sync_batchnorm(network, stage)
        self._network = self._accelerator.prepare_model(network)
        optimizers = Optimizers(
            *(
                self._accelerator.prepare_optimizer(optimizer)
                for optimizer in build_optimizers(stage.optimizer, network, self._classifier)
            )
        )
        for optimizer, saved in zip(optimizers, optimizer_states or (), strict=False):
            optimizer.load_state_dict(saved)
        self._optimizers = optimizers
        for epoch in range(state.epoch, stage.epochs):
            self._run_epoch(stage, data.train, teacher, optimizers)
            last = epoch + 1 == stage.epochs
            if last or (epoch + 1) % stage.validate_every == 0:
                self._validate(stage, data)
            self._display.epoch_done(state.history[-1])
            state.epoch, state.step = epoch + 1, 0
            if last:
                self._end_stage()
            self._save()

    def _teacher(self, stage: StageRecipe) -> Teacher | None:
        """Return the teacher of a stage; a new stage starts from its image encoder."""
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
        if self._state.epoch == self._state.step == 0:
            teacher.init_student(self._plain_network)
        return teacher

    def _end_stage(self) -> None:
        """Go to the next stage, from the best weights so far if the recipe keeps the best."""
        if self._recipe.keep == "best" and self._state.best:
            load_training(self._folder / BEST, self._plain_network, self._classifier)
        self._optimizers = None
        self._state.stage += 1
        self._state.epoch = 0

    def _run_epoch(
        self,
        stage: StageRecipe,
        dataset: PairDataset,
        teacher: Teacher | None,
        optimizers: Optimizers,
    ) -> None:
        state, plan = self._state, self._remaining_epoch(stage)
        decodes = isinstance(dataset.images, PixelSource)
        workers = self._recipe.workers if decodes else 0
        on_host = not isinstance(dataset.images, DeviceFeatureSource)
        if workers:
            trim_heap()
        loader = DataLoader(
            dataset,
            sampler=plan,
            batch_size=None,
            num_workers=workers,
            worker_init_fn=ignore_interrupts,
            pin_memory=on_host and self._accelerator.device.type == "cuda",
        )
        self._network.train()
        self._classifier.train()
        with (
            deferred_interrupts() as interrupted,
            self._display.epoch(
                stage.name, state.epoch + 1, stage.epochs, steps=len(plan), done=state.step
            ) as bar,
        ):
            for batch in loader:
                step = state.epoch * len(plan) + state.step
                set_learning_rate(
                    optimizers, lr_multiplier(stage.schedule, step, len(plan), stage.epochs)
                )
                batch = batch.to(self._accelerator.device)
                losses = self._losses(stage, batch, teacher)
                self._queue.add(state.step, len(batch.instance_ids), losses)
                if self._queue.is_due:
                    self._record_losses(stage, plan, bar)
                self._update(losses, optimizers)
                state.step += 1
                due = time.monotonic() - self._saved_at >= 60 * self._recipe.checkpoint_minutes
                stop, due = all_reduce_any(interrupted(), due)
                if due or stop:
                    self._record_losses(stage, plan, bar)
                    self._save()
                if stop:
                    raise KeyboardInterrupt
            self._record_losses(stage, plan, bar)
        if any(all_reduce_any(interrupted())):  # requested after the last step
            self._save()
            raise KeyboardInterrupt
        means = {name: total / len(plan) for name, total in state.totals.items()}
        state.totals = {}
        state.history.append({"stage": stage.name, "epoch": state.epoch + 1, "losses": means})

    def _remaining_epoch(self, stage: StageRecipe) -> EpochSampler:
        state = self._state
        return EpochSampler(
            self._train_table,
            batch_size=stage.batch_size,
            captions_per_image=stage.captions_per_image,
            of_instance=stage.captions_of == "instance",
            seed=(self._recipe.seed, state.stage, state.epoch),
            start=state.step,
        )

    def _losses(
        self, stage: StageRecipe, batch: Batch, teacher: Teacher | None
    ) -> dict[str, Tensor]:
        state, recipe = self._state, self._recipe
        place = (recipe.seed, state.stage, state.epoch, state.step)
        return step_losses(
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

    def _update(self, losses: dict[str, Tensor], optimizers: Optimizers) -> None:
        for optimizer in optimizers:
            optimizer.zero_grad(set_to_none=True)
        self._accelerator.backward(torch.stack(list(losses.values())).sum())
        for optimizer in optimizers:
            optimizer.step()

    def _record_losses(self, stage: StageRecipe, plan: EpochSampler, bar: EpochBar) -> None:
        """Check, sum up and log the losses since the last call.

        Raises:
            TrainingError: a loss is not finite.
        """
        state = self._state
        for done in self._queue.read():
            if not np.isfinite(sum(done.values.values())):
                rows = plan.plan(done.step).images
                names = [self._data.train[int(row)].file_name for row in rows]
                raise not_finite_error(stage.name, state.epoch, done, names)
            for name, value in done.values.items():
                state.totals[name] = state.totals.get(name, 0.0) + value
            bar.update(images=done.images, losses=done.values)
            self._accelerator.log(
                {f"{stage.name}/{name}": value for name, value in done.values.items()},
                step=state.epoch * len(plan) + done.step,
            )

    def _validate(self, stage: StageRecipe, data: StageData) -> None:
        """Measure retrieval on the validation split and save the weights if they are the best."""
        if not self._data.val:
            return
        metrics = validate(self._model, self._data.val, data.val_features, data.val_text_features)
        entry = self._state.history[-1]
        entry["validation"] = metrics
        step = self._state.epoch + 1
        self._accelerator.log({f"{stage.name}/validation_rsum": metrics["rsum"]}, step=step)
        if metrics["rsum"] > self._state.best.get("rsum", -1.0):
            self._state.best = {**metrics, "stage": stage.name, "epoch": step}
            self._write(BEST, None)

    def _save(self) -> None:
        self._write(LAST, self._optimizers)
        self._saved_at = time.monotonic()

    def _write(self, name: str, optimizers: Optimizers | None) -> None:
        path = self._folder / name
        save_training(path, self._plain_network, self._classifier, optimizers, self._state)

    def _restore(self) -> list[dict[str, Any]] | None:
        """Load the last checkpoint if there is one; return the states of its optimisers."""
        if not (self._folder / LAST).exists():
            return None
        self._state, optimizer_states = load_training(
            self._folder / LAST, self._plain_network, self._classifier
        )
        return optimizer_states
