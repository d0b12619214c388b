"""A recurrent text encoder of the usual size, for comparison."""

from torch import Tensor, nn


class BiGRU(nn.Module):
    """The mean over the words of a bidirectional GRU's states.

    Args:
        num_embeddings: rows of the word table; row 0 is padding.
        embedding_dim: length of a word vector.
        units: of each direction.
    """

    def __init__(self, num_embeddings: int, embedding_dim: int, units: int = 1024) -> None:
        super().__init__()
        self.embedding = nn.Embedding(num_embeddings, embedding_dim, padding_idx=0)
        self.rnn = nn.GRU(embedding_dim, units, batch_first=True, bidirectional=True)

    def forward(self, token_ids: Tensor) -> Tensor:
        """Embed texts, (batch, words) int64, padded with 0."""
        lengths = (token_ids != 0).sum(dim=1).clamp(min=1)
        packed = nn.utils.rnn.pack_padded_sequence(
            self.embedding(token_ids), lengths, batch_first=True, enforce_sorted=False
        )
        states, _ = nn.utils.rnn.pad_packed_sequence(self.rnn(packed)[0], batch_first=True)
        mean: Tensor = states.sum(dim=1) / lengths[:, None]
        return mean
