import pytest
import torch

from dualpath.errors import CheckpointError
from dualpath.losses.instance import InstanceClassifier
from dualpath.recipes.stages import OptimizerRecipe
from dualpath.training.checkpoints import TrainingState, load_training, save_training
from dualpath.training.optim import Optimizers, build_optimizers
from tests.conftest import SMALL, small_recipe, train_quietly


class TwoEncoders(torch.nn.Module):
    """As much of a network as a checkpoint saves."""

    def __init__(self):
        super().__init__()
        self.weight = torch.nn.Linear(3, 2)


@pytest.fixture
def network():
    torch.manual_seed(0)
    return TwoEncoders()


def classifier(seed):
    torch.manual_seed(seed)
    return InstanceClassifier(3, torch.arange(23))


def read(path):
    return torch.load(path, weights_only=True)


def test_a_checkpoint_contains_no_code(bundle):
    folder = bundle / "training"
    state = read(folder / "last.pt")  # weights_only refuses everything but tensors and values
    assert set(state) == {"network", "classifier", "rows", "progress"}
    assert state["progress"]["stage"] == 2
    (shard,) = state["rows"]
    assert set(read(folder / shard)) == {"weights"}


def test_weights_and_progress_are_read_back(network, tmp_path):
    path = tmp_path / "last.pt"
    progress = TrainingState(1, 2, 3, {"ranking": 0.5}, [{"epoch": 1}], {"rsum": 9.0})
    saved = classifier(1)
    save_training(path, network, saved, None, progress)
    other, loaded = TwoEncoders(), classifier(2)
    assert load_training(path, other, loaded) == (progress, None)
    assert loaded.weight.equal(saved.weight)
    assert other.weight.weight.equal(network.weight.weight)


def test_the_states_of_both_optimizers_are_read_back(tmp_path):
    from dualpath.models.dual_encoder import build_network
    from tests.conftest import small_resolved_recipe

    network = build_network(small_resolved_recipe(), 9)
    head = InstanceClassifier(32, torch.arange(7))
    optimizers = build_optimizers(OptimizerRecipe(), network, head)
    head(torch.randn(2, 32), torch.randn(2, 32), torch.arange(2), torch.arange(2))[0].backward()
    optimizers.classifier.step()
    path = tmp_path / "last.pt"
    save_training(path, network, head, optimizers, TrainingState())
    _, states = load_training(path, network, head)
    for optimizer, state in zip(optimizers, states, strict=True):
        optimizer.load_state_dict(state)
    saved = optimizers.classifier.state_dict()["state"][0]["exp_avg"]
    assert states[1]["state"][0]["exp_avg"].equal(saved)
    assert saved.abs().max() > 0


def test_the_bias_of_a_classifier_and_its_momentum_are_divided_among_the_processes(
    network, tmp_path, monkeypatch
):
    saved = InstanceClassifier(3, torch.arange(23), bias=True)
    groups = [{"params": saved.weights()}, {"params": [saved.bias]}]
    optimizer = torch.optim.SGD(groups, lr=0.1, momentum=0.9)
    saved(torch.randn(4, 3), torch.randn(4, 3), torch.arange(4), torch.arange(4))[0].backward()
    optimizer.step()
    optimizers = Optimizers(torch.optim.SGD(network.parameters()), optimizer)
    save_training(tmp_path / "last.pt", network, saved, optimizers, TrainingState())
    # As the second of three processes.
    monkeypatch.setattr("dualpath.distributed.collectives.world_size", lambda: 3)
    monkeypatch.setattr("dualpath.distributed.collectives.rank", lambda: 1)
    loaded = InstanceClassifier(3, torch.arange(23), bias=True)
    assert loaded.own == slice(8, 16)
    _, states = load_training(tmp_path / "last.pt", network, loaded)
    assert loaded.bias.equal(saved.bias[8:16])
    momentum = optimizer.state[saved.bias]["momentum_buffer"]
    assert states[1]["state"][1]["momentum_buffer"].equal(momentum[8:16])
    assert momentum.abs().max() > 0


def test_shards_of_an_earlier_step_are_deleted(network, tmp_path):
    path = tmp_path / "last.pt"
    for step in (1, 2):
        save_training(path, network, classifier(1), None, TrainingState(step=step))
    assert sorted(file.name for file in tmp_path.iterdir()) == [
        "last.0-0-2.1-of-1.pt",
        "last.pt",
    ]


@pytest.mark.parametrize("shards", [1, 2, 3, 4])
def test_rows_of_any_number_of_processes_are_read_together(network, tmp_path, shards):
    path = tmp_path / "last.pt"
    saved = classifier(1)
    save_training(path, network, saved, None, TrainingState())
    state = read(path)
    names = [f"shard-{number}.pt" for number in range(shards)]
    for name, rows in zip(names, saved.weight.detach().chunk(shards), strict=True):
        torch.save({"weights": {"weight": rows.clone()}}, tmp_path / name)
    torch.save({**state, "rows": names}, path)
    loaded = classifier(2)
    load_training(path, network, loaded)
    assert loaded.weight.equal(saved.weight)


@pytest.mark.parametrize(("before", "after"), [(1, 3), (3, 1), (4, 3), (2, 5)])
def test_every_process_reads_its_rows_from_the_shards_of_more_or_fewer(
    network, tmp_path, before, after
):
    path = tmp_path / "last.pt"
    whole = torch.randn(23, 3)
    names = [f"shard-{number}.pt" for number in range(before)]
    for name, rows in zip(names, whole.chunk(before), strict=True):
        torch.save({"weights": {"weight": rows.clone()}}, tmp_path / name)
    save_training(path, network, classifier(1), None, TrainingState())
    torch.save({**read(path), "rows": names}, path)
    start = 0
    for rows in whole.chunk(after):
        own = classifier(2)  # as if it were one of several processes
        own.own = slice(start, start + len(rows))
        own.weight = torch.nn.Parameter(torch.zeros(len(rows), 3))
        load_training(path, network, own)
        assert own.weight.equal(rows)
        start += len(rows)


def test_a_checkpoint_of_another_version_is_named(network, tmp_path):
    path = tmp_path / "last.pt"
    save_training(path, network, classifier(1), None, TrainingState())
    torch.save({**read(path), "progress": {"unknown": 1}}, path)
    with pytest.raises(CheckpointError, match=r"last\.pt: written by another version"):
        load_training(path, network, classifier(1))


def test_a_missing_shard_is_named(network, tmp_path):
    path = tmp_path / "last.pt"
    save_training(path, network, classifier(1), None, TrainingState())
    (tmp_path / "last.0-0-0.1-of-1.pt").unlink()
    with pytest.raises(CheckpointError, match=r"last\.0-0-0\.1-of-1\.pt: .*damaged"):
        load_training(path, network, classifier(1))


def test_a_damaged_checkpoint_is_one_clear_line(tmp_path, shapes, cache):
    recipe = small_recipe(stages=[{**SMALL["stages"][0], "epochs": 1}])
    train_quietly(recipe, shapes, tmp_path, cache=cache)
    checkpoint = tmp_path / "training" / "last.pt"
    checkpoint.write_bytes(checkpoint.read_bytes()[:1000])
    with pytest.raises(CheckpointError, match=r"last\.pt: the checkpoint is damaged") as raised:
        train_quietly(recipe, shapes, tmp_path, resume=True, cache=cache)
    assert "\n" not in str(raised.value)


def test_a_checkpoint_that_cannot_be_written_says_so(network, tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(CheckpointError, match=r"cannot be written .*--resume"):
        save_training(tmp_path / "file" / "last.pt", network, classifier(1), None, TrainingState())
