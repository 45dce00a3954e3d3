"""Exports a player as a PEFT or transformers folder, after comparing it with what played."""

from __future__ import annotations

import json
import math
import re
import shutil
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from glob import escape
from pathlib import Path
from typing import TYPE_CHECKING, Any

from jinja2 import Environment, StrictUndefined

from sparring import packaged
from sparring.door import MODEL_FILES
from sparring.players.chat import Chat
from sparring.players.loading import load_adapter, load_model, load_tokenizer, stored_dtype
from sparring.players.weights import Weights
from sparring.runs.models import model_path, with_adapters
from sparring.sandbox.model import CARD, check_same_base
from sparring.settings.config import RunConfig
from sparring.settings.sections import SANDBOX, PlayerSettings
from sparring.stats.rates import Rate
from sparring.store.files import published, sweep, sync_tree
from sparring.store.folder import RunDir
from sparring.types import GateError, Message, Observation, Player, UsageError

if TYPE_CHECKING:
    from torch import Tensor

_UNSAFE = re.compile(r"[^\w .,:;/()%+=-]|(?<=/)/")
"""What could pass for markdown, HTML or a control character in a name that comes from data."""


LIMITS: Mapping[str, float] = {"float32": 1e-4, "float16": 0.04, "bfloat16": 0.25}
"""The largest difference that is allowed, as a share of the largest logit, by the dtype that the
weights were rounded to: four to five times what rounding did to a random model of 32 layers
(docs/models.md)."""
_TURNS = packaged.table("export/prompts.yaml")
PROMPTS: tuple[Observation, ...] = tuple(
    tuple(Message(*each) for turn in prompt for each in turn.items()) for prompt in _TURNS
)


@dataclass(frozen=True, slots=True)
class Agreement:
    """How far one model's logits are from the expected ones, in the logits' own unit (nats).

    `highest` is the largest expected logit. `moved` is the mean distance of the base's logits from
    the expected ones: what an adapter has learned.
    """

    what: str
    dtype: str
    positions: int
    largest: float
    mean: float
    highest: float
    same_argmax: float
    limit: float
    moved: float | None = None

    def check(self) -> None:
        """Raise a GateError above the limit, or where rounding undoes what the adapter learned."""
        if not self.largest <= self.limit < math.inf:
            raise GateError(f"the export does not say what was trained: {self}; nothing is left")
        if self.moved is not None and self.mean > self.moved:
            raise GateError(
                f"rounding to {self.dtype} loses what the adapter learned: it moves a logit by "
                f"{self.moved:.2g} on average, the rounding by {self.mean:.2g}; nothing is left; "
                "export the adapter instead (without --merge)"
            )

    def __str__(self) -> str:
        moved = self.moved
        learned = ""
        if moved is not None:
            learned = f", {self.mean:.2g} on average, where the adapter moved it by {moved:.2g}"
            much = f": rounding to {self.dtype} loses much of it, so rather publish the adapter"
            learned += much if self.mean > moved / 4 else ""
        return (
            f"{self.what}, {self.dtype}, {self.positions} positions: largest difference "
            f"{self.largest:.2g} (limit {self.limit:.2g}, largest logit {self.highest:.3g})"
            f"{learned}, same argmax {self.same_argmax:.1%}"
        )


def logits(model: Any, chat: Chat) -> Tensor:
    """The logits after every token of `PROMPTS`, float32 on the CPU, shape [N, V].

    One prompt runs at a time, so that nothing is padded.
    """
    import torch

    with torch.inference_mode():
        outputs = [
            model(torch.tensor([chat.prompt_ids(prompt)], device=model.device), use_cache=False)
            for prompt in PROMPTS
        ]
    return torch.cat([output.logits[0].float().cpu() for output in outputs])


def compare(
    what: str, dtype: str, expected_NV: Tensor, actual_NV: Tensor, base_NV: Tensor | None = None
) -> Agreement:
    """Compare logits by the limit of `dtype`; `base_NV` are those without the adapter."""
    difference_NV = (actual_NV - expected_NV).abs()
    highest = expected_NV.abs().max().item()
    return Agreement(
        what=what,
        dtype=dtype,
        positions=len(expected_NV),
        largest=difference_NV.max().item(),
        mean=difference_NV.mean().item(),
        highest=highest,
        same_argmax=(actual_NV.argmax(-1) == expected_NV.argmax(-1)).float().mean().item(),
        limit=LIMITS[dtype] * highest,
        moved=None if base_NV is None else (base_NV - expected_NV).abs().mean().item(),
    )


def merged(base: Any, adapter: Path, logits: Callable[[Any], Tensor]) -> tuple[Any, Tensor, Tensor]:
    """Merge the PEFT folder `adapter` into `base`, which is changed, and keep the base's dtype.

    Returns the model, and its logits with the adapter beside and inside the weights, both in
    float32 and before anything is rounded. A tied base whose input and output embeddings the
    adapter sets apart comes out untied: otherwise transformers would load one in place of both.
    """
    import torch

    dtype, model = base.dtype, base.float()
    tied = model.get_output_embeddings().weight is model.get_input_embeddings().weight
    settings = json.loads((adapter / "adapter_config.json").read_bytes())
    if tied and not settings.get("ensure_weight_tying"):
        # Merging into one of two tied matrices must not change the other.
        head = model.get_output_embeddings()
        head.weight = torch.nn.Parameter(head.weight.detach().clone(), requires_grad=False)
        _set_tied(model, False)
    with_adapter = load_adapter(model, adapter)
    beside_NV = logits(with_adapter)
    model = with_adapter.merge_and_unload(safe_merge=True)
    if tied:
        head, embedding = model.get_output_embeddings(), model.get_input_embeddings()
        equal = torch.equal(head.weight, embedding.weight)
        if equal:
            head.weight = embedding.weight
        _set_tied(model, equal)
    if hasattr(model.config, "auto_map"):  # names code that is not exported
        del model.config.auto_map
    within_NV = logits(model)
    return model.to(dtype), beside_NV, within_NV


def _set_tied(model: Any, tied: bool) -> None:
    for config in (model.config, model.config.get_text_config()):
        config.tie_word_embeddings = tied


@dataclass(frozen=True)
class Export:
    """An export of `player` after `number` rounds of `run` (None: the last checkpoint).

    `merge` puts an adapter into its base. An attacker is only exported if it is `understood` that
    it must not be published.
    """

    run: RunDir
    player: Player
    number: int | None = None
    merge: bool = False
    output: Path | None = None
    understood: bool = False

    @cached_property
    def config(self) -> RunConfig:
        """The run's own settings."""
        return self.run.config

    @cached_property
    def at(self) -> int:
        """The number of rounds after which the checkpoint was written."""
        return self.run.checkpoints.at(self.number)

    @property
    def settings(self) -> PlayerSettings:
        """The settings that the player's weights were loaded by: shared ones are the defender's."""
        separate = self.config.weights == "separate"
        return self.config.player(self.player if separate else Player.DEFENDER)

    @property
    def kind(self) -> str:
        """Which kind of folder is written: adapter, merged or whole."""
        if self.config.weights != "adapters":
            return "whole"
        return "merged" if self.merge else "adapter"

    @property
    def folder(self) -> Path:
        """The folder that is written."""
        name = f"{self.player}-{self.at:06d}{'-merged' if self.kind == 'merged' else ''}"
        return self.output or self.run.path("export", name)

    def write(self) -> list[Agreement]:
        """Write the folder, load it as others would, compare it with what played, then publish it.

        GateError if they differ, and then there is no folder; UsageError if there was one before.
        """
        self._check()
        place = Path(model_path(self.settings.model_name_or_path))
        chat = Chat(load_tokenizer(str(place), self.settings.revision))
        source = self.run.checkpoint(self.at) / self.config.owner(self.player)
        check_same_base(place, source)
        agreements: list[Agreement] = []
        sweep(self.folder.parent, escape(self.folder.name))
        with published(self.folder) as temporary:
            if self.kind == "merged":
                model, *both = merged(self._base(), source, lambda model: logits(model, chat))
                model.save_pretrained(temporary)
                del model
                chat.tokenizer.save_pretrained(temporary)
                agreements.append(compare("merged", "float32", *both))
            else:
                _copy(source, temporary)
            if (place / CARD).is_file():  # a sandbox base says which language it speaks
                shutil.copyfile(place / CARD, temporary / CARD)
            played_NV, base_NV, dtype = self._as_played(source, chat)
            loaded_NV = logits(self._as_loaded(temporary), chat)
            if self.kind != "merged":  # a copy rounds nothing
                base_NV, dtype = None, "float32"
            agreements.append(compare("as loaded", dtype, played_NV, loaded_NV, base_NV))
            for agreement in agreements:
                agreement.check()
            (temporary / "README.md").write_text(card(self, self.at, agreements), "utf-8")
            sync_tree(temporary)
            self._check_new()
        return agreements

    def _check(self) -> None:
        if self.player is Player.ATTACKER and not self.understood:
            raise UsageError(
                "--role attacker: a trained attacker rewrites harmful requests so that models "
                "answer them, and must not be published; add --i-understand to export it for "
                "your own tests"
            )
        self._check_new()

    def _check_new(self) -> None:
        if self.folder.exists():
            raise UsageError(f"--output: {self.folder} exists; choose another folder")

    def _base(self) -> Any:
        place = model_path(self.settings.model_name_or_path)
        return load_model(place, self.settings.dtype, self.settings.revision)

    def _as_played(self, source: Path, chat: Chat) -> tuple[Tensor, Tensor | None, str]:
        """Logits of the player and of its base as the run itself loads them, and the dtype."""
        base = self._base()
        dtype = str(base.dtype).removeprefix("torch.")
        adapters = self.config.weights == "adapters"
        weights = with_adapters(self.config, base)[self.player] if adapters else Weights(base)
        weights.read(source)
        played_NV = logits(weights.model, chat)
        if not adapters:
            return played_NV, None, dtype
        with weights.model.disable_adapter():
            return played_NV, logits(weights.model, chat), dtype

    def _as_loaded(self, folder: Path) -> Any:
        """The exported model as other libraries load it."""
        if self.kind == "adapter":
            return load_adapter(self._base(), folder)
        return load_model(str(folder), stored_dtype(str(folder)))


def _copy(source: Path, to: Path) -> None:
    """Copy what a model's folder is made of; no code and no pickle leaves with it."""
    for path in sorted(source.iterdir()):
        if path.suffix in MODEL_FILES and path.is_file() and not path.is_symlink():
            shutil.copyfile(path, to / path.name)


def card(export: Export, number: int, agreements: Sequence[Agreement]) -> str:
    """Write the model card after `number` rounds: README.md as the Hugging Face hub reads it.

    It holds no text of a game, and every value from data is made plain.
    """
    base = export.settings.model_name_or_path
    exams = [exam for exam in export.run.exams() if exam <= number]
    first, last = (export.run.exam(exams[i]) if exams else None for i in (0, -1))
    environment = Environment(
        finalize=plain, undefined=StrictUndefined, trim_blocks=True, keep_trailing_newline=True
    )
    return environment.from_string(packaged.text("export/card.md.j2")).render(
        **{"export": export, "config": export.config, "number": number, "agreements": agreements},
        **{"exams": exams, "first": first, "last": last, "shown": _shown, "prompts": len(PROMPTS)},
        base=base,
        base_on_hub=base != SANDBOX and not base.startswith((".", "/", "~")),
        loaded_base="sparring/sandbox/weights" if base == SANDBOX else base,
    )


def _shown(rate: Rate | None) -> str:
    if rate is None or rate.value is None or rate.ci95 is None:
        return "unscored"
    return "{:.3f} ({:.3f} to {:.3f})".format(rate.value, *rate.ci95)


def plain(value: object) -> str:
    """A value as letters, digits and harmless marks, at most 200 of them."""
    return _UNSAFE.sub("?", str(value))[:200]
