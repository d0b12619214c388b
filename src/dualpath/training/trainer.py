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
from accelerate import Accelerator
from accelerate.state import AcceleratorState
from torch import Tensor
from torch.nn import functional as F
from torch.utils.data import DataLoader

from dualpath.data.pairs import (
    Batch,
    EpochPlan,
    FeaturePictures,
    PairDataset,
    tabulate_captions,
)
from dualpath.embedding import DualPath
from dualpath.losses.distillation import distillation_loss
from dualpath.losses.instance import InstanceClassifier
from dualpath.recipe import StageRecipe
from dualpath.training.checkpoints import Progress, load_checkpoint, save_checkpoint
from dualpath.training.distillation import Teacher
from dualpath.training.interrupts import deferred_interrupts, ignore_interrupts
from dualpath.training.mining import mine_captions
from dualpath.training.prepare import TrainingData
from dualpath.training.progress import Display
from dualpath.training.stage_data import StageData, stage_data
from dualpath.training.stages import (
    Mined,
    augment_words,
    build_optimizer,
    freeze,
    rate_factor,
    set_learning_rate,
    stage_losses,
)
from dualpath.training.validation import validate

LAST, BEST = "last.pt", "best.pt"


class TrainingError(RuntimeError):
    """A training that cannot go on; the message names where and what to do."""


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
        # Accelerate keeps the precision of an earlier training of this process, which may differ.
        AcceleratorState._reset_state()
        self._accelerator = Accelerator(
            mixed_precision=self._recipe.mixed_precision,
            log_with="tensorboard",
            project_dir=folder,
        )
        if self._accelerator.num_processes > 1:
            raise TrainingError(
                f"{self._accelerator.num_processes} processes were launched, and batches are not "
                "shared out between processes yet; launch one"
            )
        model.device = self._accelerator.device
        self._train_table = tabulate_captions(data.train, model.tokenizer)
        torch.manual_seed(self._recipe.seed)
        classifier = InstanceClassifier(
            self._recipe.dim, class_of, shared=self._recipe.classifier.shared
        )
        self._network = self._accelerator.prepare_model(model.network)
        self._classifier = self._accelerator.prepare_model(classifier)
        self._progress = Progress()
        self._optimizer: torch.optim.Optimizer | None = None
        self._saved_at = time.monotonic()

    @property
    def _plain_network(self) -> Any:
        return self._accelerator.unwrap_model(self._network)

    @property
    def _plain_classifier(self) -> Any:
        return self._accelerator.unwrap_model(self._classifier)

    def run(self) -> dict[str, Any]:
        """Train to the end and return the metrics of the kept weights, with the history.

        Raises:
            TrainingError: a loss is no number any more.
            CheckpointError: a checkpoint cannot be read or written.
        """
        self._accelerator.init_trackers("log")
        optimizer_state = self._restore()
        try:
            while self._progress.stage < len(self._recipe.stages):
                self._run_stage(self._recipe.stages[self._progress.stage], optimizer_state)
                optimizer_state = None
        finally:
            self._accelerator.end_training()
        history = self._progress.history
        last = history[-1].get("validation", {})
        validation = self._progress.best if self._recipe.keep == "best" else last
        return {"validation": validation, "history": history}

    def _run_stage(self, stage: StageRecipe, optimizer_state: dict[str, Any] | None) -> None:
        network, progress = self._plain_network, self._progress
        freeze(network, stage)
        optimizer = self._accelerator.prepare_optimizer(
            build_optimizer(stage.optimizer, network, self._plain_classifier)
        )
        if optimizer_state is not None:
            optimizer.load_state_dict(optimizer_state)
        self._optimizer = optimizer
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
        for epoch in range(progress.epoch, stage.epochs):
            self._run_epoch(stage, data.train, teacher, optimizer)
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
            [caption for item in self._data.train for caption in item.captions],
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
            state, _ = load_checkpoint(self._folder / BEST)
            self._load_weights(state)
        self._optimizer = None
        self._progress.stage += 1
        self._progress.epoch = 0

    def _run_epoch(
        self,
        stage: StageRecipe,
        dataset: PairDataset,
        teacher: Teacher | None,
        optimizer: torch.optim.Optimizer,
    ) -> None:
        progress, plan = self._progress, self._rest_of_epoch(stage)
        workers = 0 if isinstance(dataset.pictures, FeaturePictures) else self._recipe.workers
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
            self._display.epoch(title, total=len(plan), done=progress.step) as bar,
            deferred_interrupts() as interrupted,
        ):
            for batch in loader:
                step = progress.epoch * len(plan) + progress.step
                set_learning_rate(
                    optimizer, rate_factor(stage.schedule, step, len(plan), stage.epochs)
                )
                batch = _to_device(batch, self._accelerator.device)
                losses = self._step(stage, batch, teacher, optimizer)
                progress.step += 1
                for name, value in losses.items():
                    progress.totals[name] = progress.totals.get(name, 0.0) + value
                bar.update(pictures=len(batch.pictures), losses=losses)
                self._accelerator.log(
                    {f"{stage.name}/{name}": value for name, value in losses.items()}, step=step
                )
                due = time.monotonic() - self._saved_at >= 60 * self._recipe.checkpoint_minutes
                if due or interrupted():
                    self._save()
                if interrupted():
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
        optimizer: torch.optim.Optimizer,
    ) -> dict[str, float]:
        progress, recipe = self._progress, self._recipe
        place = (recipe.seed, progress.stage, progress.epoch, progress.step)
        torch.manual_seed(int(np.random.SeedSequence(place).generate_state(1)[0]))
        text_encoder = self._plain_network.text_encoder
        token_ids = augment_words(text_encoder, batch.token_ids, recipe.text_encoder)
        mined_ids = None
        if stage.ranking and stage.ranking.negatives == "mined":
            mined_tokens, mined_ids = mine_captions(
                self._plain_network,
                batch,
                self._train_table,
                recipe.text_encoder,
                stage.ranking.candidates,
            )
            token_ids = _stacked(token_ids, mined_tokens)
        unpaired = teacher.draw(self._accelerator.device) if teacher else None
        if unpaired is not None:
            words = augment_words(text_encoder, unpaired[0], recipe.text_encoder)
            token_ids = _stacked(token_ids, words)
        with self._accelerator.autocast():
            image_features, text_features = self._network(batch.pictures, token_ids)
        image_features, text_features = image_features.float(), text_features.float()
        if recipe.relu:
            image_features, text_features = F.relu(image_features), F.relu(text_features)
        captions = len(batch.owners)
        losses = stage_losses(
            stage,
            self._classifier,
            image_features,
            text_features[:captions],
            batch.owners,
            batch.instance_ids,
            None if mined_ids is None else Mined(text_features[captions:], mined_ids),
        )
        if stage.distillation is not None:
            assert batch.targets is not None
            targets = [batch.targets] if unpaired is None else [batch.targets, unpaired[1]]
            losses["distillation"] = stage.distillation.weight * distillation_loss(
                text_features, torch.cat(targets)
            )
        loss = torch.stack(list(losses.values())).sum()
        values = {name: float(value.detach()) for name, value in losses.items()}
        if not np.isfinite(sum(values.values())):
            raise TrainingError(self._not_finite(stage, values))
        optimizer.zero_grad(set_to_none=True)
        self._accelerator.backward(loss)
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
            save_checkpoint(self._folder / BEST, self._weights(), self._progress)

    def _weights(self) -> dict[str, Any]:
        return {
            "network": self._plain_network.state_dict(),
            "classifier": self._plain_classifier.state_dict(),
        }

    def _load_weights(self, state: dict[str, Any]) -> None:
        self._plain_network.load_state_dict(state["network"])
        self._plain_classifier.load_state_dict(state["classifier"])

    def _save(self) -> None:
        state = self._weights()
        if self._optimizer is not None:
            state["optimizer"] = self._optimizer.state_dict()
        save_checkpoint(self._folder / LAST, state, self._progress)
        self._saved_at = time.monotonic()

    def _restore(self) -> dict[str, Any] | None:
        """Load the last checkpoint, if there is one, and return the optimiser's state."""
        if not (self._folder / LAST).exists():
            return None
        state, self._progress = load_checkpoint(self._folder / LAST)
        self._load_weights(state)
        optimizer: dict[str, Any] | None = state.get("optimizer")
        return optimizer


def _stacked(first: Tensor, second: Tensor) -> Tensor:
    """Stack placed sentences, (m, positions) and (n, positions), padded to the same length."""
    width = max(first.shape[1], second.shape[1])
    return torch.cat([F.pad(ids, (0, width - ids.shape[1])) for ids in (first, second)])


def _to_device(batch: Batch, device: torch.device) -> Batch:
    moved = {
        k: t.to(device, non_blocking=True) for k, t in batch._asdict().items() if t is not None
    }
    return Batch(**moved)
