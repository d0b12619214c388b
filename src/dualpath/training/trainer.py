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

from dualpath.data.pairs import (
    Batch,
    CaptionTable,
    EpochPlan,
    FeaturePictures,
    PairDataset,
    PixelPictures,
    tabulate_captions,
)
from dualpath.data.views import WHOLE, View, fixed_views
from dualpath.embedding import DualPath, Vectors
from dualpath.evaluation.protocols import evaluate_all, instance_numbers
from dualpath.losses.instance import InstanceClassifier
from dualpath.recipe import StageRecipe
from dualpath.training.checkpoints import Progress, load_checkpoint, save_checkpoint
from dualpath.training.feature_cache import cached_features
from dualpath.training.interrupts import deferred_interrupts, ignore_interrupts
from dualpath.training.prepare import TrainingData
from dualpath.training.progress import Display
from dualpath.training.stages import (
    build_optimizer,
    parameter_groups,
    rate_factor,
    set_learning_rate,
    stage_losses,
)

LAST, BEST = "last.pt", "best.pt"


class TrainingError(RuntimeError):
    """A training that cannot go on; the message names where and what to do."""


class Trainer:
    """Train a model through the stages of its recipe.

    Args:
        model: the network with its tokenizer and (complete) recipe; trained in place.
        data: captioned pictures.
        folder: for checkpoints and logs; a checkpoint found in it is continued.
        cache: folder for backbone features.
    """

    def __init__(
        self, model: DualPath, data: TrainingData, folder: Path, cache: Path, display: Display
    ) -> None:
        self._model, self._data, self._folder = model, data, folder
        self._cache, self._display = cache, display
        self._recipe = model.recipe
        self._accelerator = Accelerator(
            mixed_precision=self._recipe.mixed_precision,
            log_with="tensorboard",
            project_dir=folder,
        )
        model.device = self._accelerator.device
        self._train_table = tabulate_captions(data.train, model.tokenizer)
        self._val_table = tabulate_captions(data.val, model.tokenizer) if data.val else None
        torch.manual_seed(self._recipe.seed)
        classifier = InstanceClassifier(self._recipe.dim, self._train_table.instances)
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
        pictures, val_pictures = self._stage_pictures(stage)
        dataset = PairDataset(self._train_table, pictures)
        for epoch in range(progress.epoch, stage.epochs):
            self._run_epoch(stage, dataset, optimizer)
            last = epoch + 1 == stage.epochs
            if last or (epoch + 1) % stage.validate_every == 0:
                self._validate(stage, val_pictures)
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
        progress, table = self._progress, self._train_table
        plan = EpochPlan(
            table,
            batch_size=stage.batch_size,
            captions_per_picture=stage.captions_per_picture,
            seed=(self._recipe.seed, progress.stage, progress.epoch),
            start=progress.step,
        )
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

    def _step(
        self, stage: StageRecipe, batch: Batch, optimizer: torch.optim.Optimizer
    ) -> dict[str, float]:
        progress, recipe = self._progress, self._recipe
        place = (recipe.seed, progress.stage, progress.epoch, progress.step)
        torch.manual_seed(int(np.random.SeedSequence(place).generate_state(1)[0]))
        token_ids = self._augment_words(batch.token_ids)
        with self._accelerator.autocast():
            image_features, text_features = self._network(batch.pictures, token_ids)
        image_features, text_features = image_features.float(), text_features.float()
        if recipe.relu:
            image_features, text_features = F.relu(image_features), F.relu(text_features)
        losses = stage_losses(
            stage, self._classifier, image_features, text_features, batch.owners, batch.instance_ids
        )
        loss = torch.stack(list(losses.values())).sum()
        values = {name: float(value.detach()) for name, value in losses.items()}
        if not np.isfinite(sum(values.values())):
            raise TrainingError(self._not_finite(stage, values))
        optimizer.zero_grad(set_to_none=True)
        self._accelerator.backward(loss)
        optimizer.step()
        return values

    def _augment_words(self, token_ids: Tensor) -> Tensor:
        """Drop words and shift sentences, as the recipe says (paper, section 4.1)."""
        text, encoder = self._recipe.text_encoder, self._plain_network.text_encoder
        if text.word_dropout:
            dropped = torch.rand(token_ids.shape, device=token_ids.device) < text.word_dropout
            unknown = encoder.embedding.num_embeddings - 1
            token_ids = token_ids.masked_fill(dropped & (token_ids != 0), unknown)
        if text.position_shift:
            placed: Tensor = encoder.place_at_random(token_ids)
            return placed
        starts = torch.zeros(len(token_ids), dtype=torch.int64, device=token_ids.device)
        aligned: Tensor = encoder.place(token_ids, starts)
        return aligned

    def _not_finite(self, stage: StageRecipe, values: dict[str, float]) -> str:
        progress = self._progress
        plan = EpochPlan(
            self._train_table,
            batch_size=stage.batch_size,
            captions_per_picture=stage.captions_per_picture,
            seed=(self._recipe.seed, progress.stage, progress.epoch),
            start=progress.step,
        )
        names = [self._data.train[i].file_name for i in next(iter(plan)).pictures]
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
        encoder = self._plain_network.image_encoder
        size = self._recipe.image_encoder.input_size
        assert size is not None, "the recipe was completed before training"
        if stage.backbone != "frozen":
            return PixelPictures(self._data.train, size, stage.flip, stage.crops), None
        train: PixelPictures | FeaturePictures
        test_views = [WHOLE, View(flipped=True)][: 1 + self._recipe.image_encoder.flip_average]
        fixed = [] if stage.crops == "random" else fixed_views(flip=stage.flip, crops=stage.crops)
        total = len(self._data.train) * len(fixed) + len(self._data.val) * len(test_views)
        with self._display.work("backbone features", total) as advance:
            options = (size, self._cache)
            hashes, workers = self._data.hashes, self._recipe.workers
            val = cached_features(
                encoder,
                self._data.val,
                hashes,
                test_views,
                *options,
                workers=workers,
                advance=advance,
            )
            if fixed:
                train = cached_features(
                    encoder,
                    self._data.train,
                    hashes,
                    fixed,
                    *options,
                    workers=workers,
                    advance=advance,
                )
            else:
                train = PixelPictures(self._data.train, size, stage.flip, stage.crops)
        return train, [
            torch.from_numpy(features[rows])
            for features, rows in zip(val.features, val.rows, strict=True)
        ]

    def _validate(self, stage: StageRecipe, val_features: list[Tensor] | None) -> None:
        """Measure retrieval on the validation split and keep the weights if they are the best."""
        if self._val_table is None:
            return
        model = self._model
        self._network.eval()
        if val_features is None:
            image_vectors = model.embed_images(
                [item.path for item in self._data.val], workers=self._recipe.workers
            )
        else:
            views = [view.to(model.device) for view in val_features]
            image_vectors = model.network.embed_pictures(*views).cpu().numpy()
        text_vectors = self._embed_captions(self._val_table)
        metrics = evaluate_all(image_vectors, text_vectors, *instance_numbers(self._data.val))
        entry = self._progress.history[-1]
        entry["validation"] = metrics | {"split": "val"}
        self._display.validated(stage.name, entry)
        step = self._progress.epoch + 1
        self._accelerator.log({f"{stage.name}/validation_rsum": metrics["rsum"]}, step=step)
        if metrics["rsum"] > self._progress.best.get("rsum", -1.0):
            self._progress.best = {**entry["validation"], "stage": stage.name, "epoch": step}
            save_checkpoint(self._folder / BEST, self._weights(), self._progress)

    def _embed_captions(self, table: CaptionTable) -> Vectors:
        average = self._recipe.text_encoder.position_shift
        parts = []
        for start in range(0, len(table.token_ids), 256):
            token_ids = torch.from_numpy(table.token_ids[start : start + 256])
            batch = token_ids[:, : max(1, int((token_ids != 0).sum(1).max()))]
            embedded = self._model.network.embed_sentences(
                batch.to(self._model.device), average=average
            )
            parts.append(embedded.cpu().numpy())
        return np.concatenate(parts)

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


def _to_device(batch: Batch, device: torch.device) -> Batch:
    return Batch(*(tensor.to(device, non_blocking=True) for tensor in batch))
