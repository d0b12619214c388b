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
from torch import Tensor
from torch.nn import functional as F
from torch.utils.data import DataLoader

from dualpath.data.manifest import Item
from dualpath.data.pairs import (
    Batch,
    EpochPlan,
    FeaturePictures,
    PairDataset,
    PixelPictures,
    tabulate_captions,
)
from dualpath.data.views import View, fixed_views
from dualpath.embedding import DualPath
from dualpath.losses.instance import InstanceClassifier
from dualpath.recipe import StageRecipe
from dualpath.training.checkpoints import Progress, load_checkpoint, save_checkpoint
from dualpath.training.feature_cache import cached_features
from dualpath.training.interrupts import deferred_interrupts, ignore_interrupts
from dualpath.training.mining import mine_captions
from dualpath.training.prepare import TrainingData
from dualpath.training.progress import Display
from dualpath.training.stages import (
    Mined,
    augment_words,
    build_optimizer,
    parameter_groups,
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
        network.image_encoder.set_backbone(stage.backbone)
        groups = parameter_groups(network, self._plain_classifier)
        optimizer = self._accelerator.prepare_optimizer(build_optimizer(stage.optimizer, groups))
        if optimizer_state is not None:
            optimizer.load_state_dict(optimizer_state)
        self._optimizer = optimizer
        pictures, val_features = self._stage_pictures(stage)
        dataset = PairDataset(self._train_table, pictures)
        for epoch in range(progress.epoch, stage.epochs):
            self._run_epoch(stage, dataset, optimizer)
            last = epoch + 1 == stage.epochs
            if last or (epoch + 1) % stage.validate_every == 0:
                self._validate(stage, val_features)
            self._display.epoch_done(progress.history[-1])
            progress.epoch, progress.step = epoch + 1, 0
            if last:
                self._end_stage()
            self._save()

    def _end_stage(self) -> None:
        """Go to the next stage, from the best weights so far where the recipe keeps the best."""
        if self._recipe.keep == "best" and self._progress.best:
            state, _ = load_checkpoint(self._folder / BEST)
            self._load_weights(state)
        self._optimizer = None
        self._progress.stage += 1
        self._progress.epoch = 0

    def _run_epoch(
        self, stage: StageRecipe, dataset: PairDataset, optimizer: torch.optim.Optimizer
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
                losses = self._step(stage, _to_device(batch, self._accelerator.device), optimizer)
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
        self, stage: StageRecipe, batch: Batch, optimizer: torch.optim.Optimizer
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

    def _stage_pictures(
        self, stage: StageRecipe
    ) -> tuple[PixelPictures | FeaturePictures, list[Tensor] | None]:
        """Return what a stage trains on, and the validation features if the backbone is fixed."""
        image = self._recipe.image_encoder
        size = image.input_size
        assert size is not None, "the recipe was completed before training"
        pixels = PixelPictures(self._data.train, size, stage.flip, stage.crops)
        if stage.backbone != "frozen":
            return pixels, None
        random = stage.crops == "random"
        train_views = [] if random else fixed_views(flip=stage.flip, crops=int(stage.crops))
        slides = image.test_size is not None  # and sees more than the kept features
        val_views = [] if slides else fixed_views(flip=image.flip_average, crops=0)
        total = len(self._data.train) * len(train_views) + len(self._data.val) * len(val_views)
        with self._display.work("backbone features", total) as advance:

            def features(items: list[Item], views: list[View]) -> FeaturePictures:
                return cached_features(
                    self._plain_network.image_encoder,
                    items,
                    self._data.hashes,
                    views,
                    size,
                    self._cache,
                    workers=self._recipe.workers,
                    advance=advance,
                )

            val = features(self._data.val, val_views)
            train = features(self._data.train, train_views) if train_views else pixels
        val_features = [
            torch.from_numpy(vectors[rows])
            for vectors, rows in zip(val.features, val.rows, strict=True)
        ]
        return train, val_features or None

    def _validate(self, stage: StageRecipe, val_features: list[Tensor] | None) -> None:
        """Measure retrieval on the validation split and keep the weights if they are the best."""
        if not self._data.val:
            return
        metrics = validate(self._model, self._data.val, val_features)
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
    return Batch(*(tensor.to(device, non_blocking=True) for tensor in batch))
