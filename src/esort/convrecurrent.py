"""The published name of the family: temporal convolution, spatial mixing, a recurrent layer over time.

Shapes as in `esort.network`, and: M steps of the recurrence, S features of its state, K taps of the filters.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager

import torch
from torch import Tensor, nn
from torch.nn import functional

from esort.dense_network import DenseNetwork

__all__ = ["ConvRecurrentNetwork"]


class ConvRecurrentNetwork(DenseNetwork):
    """The dense design, corrected by a recurrent layer that looks at the time before and after.

    Filters and mixing are those of `DenseNetwork`, on the middle of the window. They are also applied at
    `steps` places before and as many after it, evenly spaced over `reach` of the window to either side. A
    gated recurrent unit (Cho et al., arXiv 1406.1078) goes over these 2 · steps + 1 places in order of time,
    always from a state of zeros; what it ends with is added to the hidden features in the middle.

    The memory is therefore *finite and the window itself*: what is said of a sample depends on its window and
    on nothing else, so that chunks of any size give the same. Outputs share filters, mixing and the inputs of
    the recurrence; only its M small steps are done for each output anew.

    The recurrent layer starts with no influence, also behind a backbone: a head start from labelled spikes
    (`esort.matched`) gives the hidden features a new meaning, so what is added to them belongs to the head.
    That start is then the dense design's, and training finds out what the time around is good for.

    Parameters
    ----------
    state_features : int
        Size S of the recurrent state.
    steps : int
        Places on either side.
    reach : float
        How far they reach, as a share of the window, in [0, 0.45]. Filters have what is left of it.
    temporal_features, hidden_features, **sizes
        See `DenseNetwork`.

    Raises
    ------
    ValueError
        If a value is outside its limits.
    """

    def __init__(
        self,
        *,
        temporal_features: Sequence[int] = (8, 16),
        hidden_features: int | None = None,
        state_features: int = 32,
        steps: int = 3,
        reach: float = 0.25,
        **sizes: int,
    ) -> None:
        for name, value in (("state_features", state_features), ("steps", steps)):
            if isinstance(value, bool) or not isinstance(value, int) or value < 1:
                raise ValueError(f"{name} must be a whole number of at least 1, got {value!r}")
        if isinstance(reach, bool) or not isinstance(reach, (int, float)) or not 0 <= reach <= 0.45:
            raise ValueError(f"reach must be a share of the window in [0, 0.45], got {reach!r}")
        super().__init__(temporal_features=temporal_features, hidden_features=hidden_features, **sizes)
        # A window too short for places of their own has all of them in its middle.
        self.place_stride = int(reach * self.window_samples / steps)
        self.margin_samples = self.place_stride * steps
        self.num_places = 2 * steps + 1
        taps = self.window_samples - 2 * self.margin_samples
        self.filters = nn.Linear(taps, self.filters.out_features, bias=False)
        hidden = self.mixing.out_features
        self.recurrence = nn.GRUCell(hidden, state_features)
        self.correction = nn.Linear(state_features, hidden)
        nn.init.zeros_(self.correction.weight)
        nn.init.zeros_(self.correction.bias)

    def forward(self, traces: Tensor) -> Tensor:
        """See `SpikeNetwork.forward`."""
        num_outputs = traces.shape[1] - self.window_samples + 1
        if num_outputs < 1:
            raise ValueError(
                f"traces must have at least the window's {self.window_samples} samples, got {traces.shape[1]}"
            )
        around, spacing = self._hidden_around(traces, num_outputs)  # (B, M', H)
        if self.training:
            hidden = self.hidden(self.temporal(traces))  # (B, N, H)
        else:
            middle = spacing * (self.num_places // 2)
            hidden = around[:, middle : middle + num_outputs]
        return self.head(hidden + self.correction(self._remembered(around, spacing, num_outputs)))

    def temporal(self, traces: Tensor) -> Tensor:
        """Return the temporal features in the middle of each window, shape (B, T - W + 1, C · F)."""
        margin = self.margin_samples
        return super().temporal(traces[:, margin : traces.shape[1] - margin])

    def parameters_of_head(self) -> list[nn.Parameter]:
        """See `SpikeNetwork.parameters_of_head`."""
        return [*super().parameters_of_head(), *self.correction.parameters()]

    def backbone(self) -> dict[str, Tensor]:
        """See `SpikeNetwork.backbone`."""
        weights = super().backbone()
        return {name: value for name, value in weights.items() if not name.startswith("correction.")}

    def load_backbone(self, weights: Mapping[str, Tensor]) -> list[str]:
        """See `SpikeNetwork.load_backbone`; a recurrence is of use only behind the mixing it learned with."""
        own = self.mixing.weight.shape
        if "mixing.weight" not in weights or weights["mixing.weight"].shape != own:
            weights = {name: value for name, value in weights.items() if not name.startswith("recurrence.")}
        return super().load_backbone(weights)

    def _hidden_around(self, traces: Tensor, num_outputs: int) -> tuple[Tensor, int]:
        """Hidden features at all places that any output needs, and how many lie from step to step.

        In training these are read as they are: normalised by the running statistics (those of a batch are
        for the middles of its windows, where most spikes are) and without a gradient, which filters and
        mixing get from the middle. That makes a step of training three times faster.
        """
        taps, step = self.filters.in_features, self.place_stride
        with self._as_it_is():
            if num_outputs > 1 or step == 0:
                return self.hidden(super().temporal(traces)), step  # (B, T - K + 1, H)
            # A single window, as in training: only M places are needed, not all between them.
            windows = traces.unfold(1, taps, step).transpose(2, 3).flatten(0, 1)  # (B · M, K, C)
            hidden = self.hidden(super().temporal(windows))  # (B · M, 1, H)
            return hidden.view(len(traces), self.num_places, -1), 1  # (B, M, H)

    @contextmanager
    def _as_it_is(self) -> Iterator[None]:
        """Neither learn nor count, if this is training; no change in evaluation."""
        norms = [norm for norm in (self.filters_norm, self.features_norm, self.mixing_norm) if norm.training]
        for norm in norms:
            norm.eval()
        try:
            with torch.set_grad_enabled(torch.is_grad_enabled() and not self.training):
                yield
        finally:
            for norm in norms:
                norm.train()

    def _remembered(self, hidden: Tensor, spacing: int, num_outputs: int) -> Tensor:
        """Run the recurrence over the places of every output at once: (B, M', H) to (B, N, S)."""
        cell = self.recurrence
        inputs = functional.linear(hidden, cell.weight_ih, cell.bias_ih)  # (B, M', 3 S)
        state = hidden.new_zeros(hidden.shape[0], num_outputs, cell.hidden_size)  # (B, N, S)
        for step in range(self.num_places):
            own = inputs[:, step * spacing : step * spacing + num_outputs]  # (B, N, 3 S)
            # The cell's own equations, of which the inputs' half is shared by all outputs.
            past = functional.linear(state, cell.weight_hh, cell.bias_hh)  # (B, N, 3 S)
            (reset, update, new), (reset_past, update_past, new_past) = own.chunk(3, -1), past.chunk(3, -1)
            keep = torch.sigmoid(update + update_past)
            new = torch.tanh(new + torch.sigmoid(reset + reset_past) * new_past)
            state = new + keep * (state - new)
        return state
