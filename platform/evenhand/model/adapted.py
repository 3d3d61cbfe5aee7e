"""Backbone plus adapter: what is trained, saved, and asked for masks.

The adapter is a prompt head and low-rank parts inside the backbone. Its tensors are
known by dotted names (`head.*`, `backbone.mask_decoder.*.lora_a`, ...), which is
also the order in which they travel and are saved.
"""

from collections.abc import Mapping, Sequence
from fnmatch import fnmatch

import torch
from torch import Tensor, nn

from evenhand.config import ModelConfig
from evenhand.errors import AdapterError
from evenhand.model.backbones import Backbone
from evenhand.model.device import frozen_precision
from evenhand.model.head import PromptHead
from evenhand.model.lora import add_lora

__all__ = ["AdaptedModel"]


class AdaptedModel(nn.Module):
    """A frozen backbone with a trainable adapter.

    Args:
        backbone: taken over; its layers are replaced where LoRA goes.
        config: which parts the adapter has.
        sequences: what it looks at; the first one feeds the backbone, all of them the head.
        seed: of the adapter's random start. Everybody who trains together uses one.
        labels: what is found, in the order of its masks; empty: one, the tumour.

    Attributes:
        temperature: by which logits are divided before they become probabilities.
    """

    def __init__(
        self,
        backbone: Backbone,
        config: ModelConfig,
        *,
        seed: int,
        sequences: Sequence[str] = ("FLAIR",),
        labels: Sequence[str] = (),
    ) -> None:
        super().__init__()
        self.backbone = backbone
        self.config = config
        self.sequences = tuple(sequences)
        self.labels = tuple(labels)
        self.temperature = config.temperature
        self.tail_blocks = config.encoder_lora_blocks if config.encoder_lora_rank else 0
        tail = backbone.encoder.tail
        if self.tail_blocks > len(tail):
            raise AdapterError(
                f"{backbone.name} has {len(tail)} encoder blocks that can be adapted; "
                f"model.encoder_lora_blocks asks for {self.tail_blocks}."
            )
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            if config.decoder_lora_rank:
                targets = ("q_proj", "v_proj")
                add_lora(backbone.mask_decoder, config.decoder_lora_rank, targets)
            for block in tail[len(tail) - self.tail_blocks :]:
                add_lora(block, config.encoder_lora_rank, ("qkv",))
            self.head = None
            if config.head != "none":
                self.head = PromptHead(
                    config.head,
                    sequences=len(self.sequences),
                    hints=config.head_hints,
                    labels=max(1, len(self.labels)),
                )
        self.eval()  # dropout is for training alone, which asks for it

    @property
    def device(self) -> torch.device:
        """Where it computes; what it is asked comes from anywhere, what it answers lies there."""
        return self.backbone.device

    @property
    def precision(self) -> torch.dtype:
        """Arithmetic of what is frozen, on the device that it lies on."""
        return frozen_precision(self.config.precision, self.device)

    @property
    def training_precision(self) -> torch.dtype:
        """Arithmetic of training, on the same device."""
        wanted = self.config.training_precision
        return self.precision if wanted == "auto" else frozen_precision(wanted, self.device)

    def adapter(self) -> dict[str, nn.Parameter]:
        """All trainable tensors by name, in a fixed order."""
        return {name: p for name, p in self.named_parameters() if _is_adapter(name)}

    def adapter_state(self) -> dict[str, Tensor]:
        """A copy of the adapter's tensors, detached, on the CPU."""
        return {name: p.detach().cpu().clone() for name, p in self.adapter().items()}

    def load_adapter(self, state: Mapping[str, Tensor]) -> None:
        """Put tensors into the adapter, strictly.

        Raises:
            AdapterError: names or shapes differ from this adapter's.
        """
        own = self.adapter()
        wrong = {n for n in own if n in state and own[n].shape != state[n].shape}
        wrong |= own.keys() ^ state.keys()
        if wrong:
            raise AdapterError(
                f"The adapter does not fit this model: {len(wrong)} tensors differ, such as "
                f"'{min(wrong)}'. Use the [model] section that it was trained with."
            )
        with torch.no_grad():
            for name, parameter in own.items():
                parameter.copy_(state[name])

    def choose_trainable(self, patterns: tuple[str, ...] = ("*",)) -> dict[str, nn.Parameter]:
        """Let only adapter tensors that match a pattern be trained; return them.

        Raises:
            AdapterError: no tensor matches.
        """
        chosen = {}
        for name, parameter in self.adapter().items():
            matches = any(fnmatch(name, pattern) for pattern in patterns)
            parameter.requires_grad_(matches)
            if matches:
                chosen[name] = parameter
        if not chosen:
            raise AdapterError(
                f"No adapter tensor matches {', '.join(patterns)}; names start with "
                f"{', '.join(sorted({name.partition('.')[0] for name in self.adapter()}))}."
            )
        return chosen

    def propose(self, slices: Tensor, hidden: Tensor, hints: Tensor | None = None) -> Tensor:
        """What the head of one label sees: (batch, h, w) logits; see `propose_labels`.

        Raises:
            AdapterError: also where the adapter finds several labels.
        """
        if self.labels:
            raise AdapterError(
                f"This adapter finds several labels ({', '.join(self.labels)}); `evenhand run` and "
                "`evenhand predict` draw them, this cannot."
            )
        return self.propose_labels(slices, hidden, hints)[:, 0]

    def propose_labels(self, slices: Tensor, hidden: Tensor, hints: Tensor | None = None) -> Tensor:
        """What the head sees: logits (batch, labels, h, w).

        Args:
            slices: (batch, 3 sequences, h, w), with neighbours, fractions of the display range.
            hidden: what the embedding cache holds for them.
            hints: (batch, 2, h, w), what is said about the slices (`evenhand.model.head`);
                None: nothing, which is the automatic mode.

        Raises:
            AdapterError: the adapter has no prompt head, or one that takes no hints.
        """
        if self.head is None:
            raise AdapterError("This adapter has no prompt head; it needs a box.")
        if hints is not None and not self.head.hints:
            raise AdapterError(
                "This adapter's prompt head takes no hints; train one with model.head_hints."
            )
        told = None if hints is None else hints.to(self.device)
        logits: Tensor = self.head(slices.to(self.device), self.embed_rest(hidden), told)
        return logits

    def answer_boxes(self, hidden: Tensor, boxes: Tensor) -> Tensor:
        """What the mask decoder answers: logits (batch, 4 grid, 4 grid) for one box per slice.

        Args:
            hidden: what the embedding cache holds for the slices.
            boxes: (batch, 4), x0 y0 x1 y1 in pixels of the backbone's square.
        """
        return self.answer_prompts(hidden, boxes=boxes)

    def answer_prompts(
        self,
        hidden: Tensor,
        *,
        boxes: Tensor | None = None,
        points: tuple[Tensor, Tensor] | None = None,
    ) -> Tensor:
        """As `answer_boxes`, for a box, for points, or for both; see `Backbone.decode_prompts`."""
        boxes = None if boxes is None else boxes.to(self.device)
        if points is not None:
            points = points[0].to(self.device), points[1].to(self.device)
        return self.backbone.decode_prompts(self.embed_rest(hidden), boxes=boxes, points=points)

    def embed_rest(self, hidden: Tensor) -> Tensor:
        """From the cache to the embedding, through the adapted blocks if there are any."""
        return self.backbone.encoder.suffix(hidden.to(self.device), self.tail_blocks)


def _is_adapter(name: str) -> bool:
    return name.startswith("head.") or name.endswith((".lora_a", ".lora_b"))
