"""A run's player as a folder of its own that PEFT or transformers load, compared before it is."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from sparring.export.card import Agreement, Facts, card, compare, logits
from sparring.players.chat import Chat
from sparring.players.loading import load_adapter, load_model, load_tokenizer
from sparring.players.weights import Weights
from sparring.runs.parts import model_path, seated
from sparring.runs.seats import with_adapters
from sparring.sandbox.model import CARD
from sparring.settings.config import RunConfig
from sparring.settings.sections import PlayerSettings
from sparring.store.files import sync_folder, writing
from sparring.store.folder import RunDir
from sparring.types import Player, UsageError

if TYPE_CHECKING:
    from torch import Tensor

Saying = Callable[[Any], "Tensor"]
"""A model's logits on something fixed."""


def merged(base: Any, adapter: Path, logits: Saying) -> tuple[Any, Tensor, Tensor]:
    """`base` with the PEFT folder `adapter` in its weights and in its own dtype; changes `base`.

    Also the logits beside and in the weights, both in float32 and before anything is rounded.
    A tied base whose input and output embeddings the adapter sets apart comes out untied:
    otherwise transformers would load one of them in the place of both.
    """
    dtype = base.dtype
    told = json.loads((adapter / "adapter_config.json").read_bytes())
    model = base.float()
    tied = model.get_output_embeddings().weight is model.get_input_embeddings().weight
    if tied and not told.get("ensure_weight_tying"):
        _untie(model)
    beside = load_adapter(model, adapter)
    wanted_NV = logits(beside)
    model = beside.merge_and_unload(safe_merge=True)
    if tied:
        _tie_equals(model)
    if hasattr(model.config, "auto_map"):  # names code that does not come along
        del model.config.auto_map
    found_NV = logits(model)
    return model.to(dtype), wanted_NV, found_NV


def _untie(model: Any) -> None:
    """Merging into one of two tied matrices must not change the other."""
    import torch

    head = model.get_output_embeddings()
    head.weight = torch.nn.Parameter(head.weight.detach().clone(), requires_grad=False)
    _say_tied(model, False)


def _tie_equals(model: Any) -> None:
    import torch

    head, embedding = model.get_output_embeddings(), model.get_input_embeddings()
    same = torch.equal(head.weight, embedding.weight)
    if same:
        head.weight = embedding.weight
    _say_tied(model, same)


def _say_tied(model: Any, tied: bool) -> None:
    for config in (model.config, model.config.get_text_config()):
        config.tie_word_embeddings = tied


_KEPT = {".safetensors", ".json", ".jinja", ".txt", ".model"}
"""What a model's folder is made of; no code and no pickle leaves with it."""


@dataclass(frozen=True)
class Export:
    """`player` of `run` after `number` rounds (None: the last checkpoint), into `output`.

    `merge` puts an adapter into its base. An attacker is only exported if it is `understood`
    what it is: it must not be published.
    """

    run: RunDir
    player: Player
    number: int | None = None
    merge: bool = False
    output: Path | None = None
    understood: bool = False

    def write(self) -> list[Agreement]:
        """Write, read it as others would, compare with what played, and only then publish.

        GateError if they differ, and then there is no folder; UsageError if there was one before.
        """
        self._check()
        with _published(self.folder) as temporary:
            told = self._merged(temporary) if self._kind == "merged" else self._copied(temporary)
            for agreement in told:
                agreement.check()
            facts = Facts(self.run, self.config, self.player, self.at, self._kind, told)
            (temporary / "README.md").write_text(card(facts), "utf-8")
        return told

    def _copied(self, to: Path) -> list[Agreement]:
        """Nothing is rounded, so float32's limit holds whatever the dtype."""
        _copy(self._source, to)
        self._copy_card(to)
        wanted_NV, _, _ = self._as_it_played()
        found_NV = logits(self._as_others_load(to), self._chat)
        return [compare("as loaded", "float32", wanted_NV, found_NV)]

    def _merged(self, to: Path) -> list[Agreement]:
        """The merge itself is held to float32's limit, then what rounding it does to its own."""
        chat = self._chat
        model, beside_NV, within_NV = merged(self._base(), self._source, lambda m: logits(m, chat))
        model.save_pretrained(to)
        del model
        chat.tokenizer.save_pretrained(to)
        self._copy_card(to)
        wanted_NV, base_NV, dtype = self._as_it_played()
        found_NV = logits(self._as_others_load(to), chat)
        return [
            compare("merged", "float32", beside_NV, within_NV),
            compare("as loaded", dtype, wanted_NV, found_NV, base_NV),
        ]

    @property
    def folder(self) -> Path:
        """Where it goes."""
        ending = "-merged" if self._kind == "merged" else ""
        name = f"{self.player}-{self.at:06d}{ending}"
        return self.output or self.run.folder / "export" / name

    @cached_property
    def config(self) -> RunConfig:
        """The run's own settings."""
        return self.run.config

    @cached_property
    def at(self) -> int:
        """After how many rounds."""
        return self.run.checkpoints.at(self.number)

    @property
    def _is_adapter(self) -> bool:
        return self.config.weights == "adapters"

    @property
    def _kind(self) -> str:
        if not self._is_adapter:
            return "whole"
        return "merged" if self.merge else "adapter"

    @property
    def _seat(self) -> PlayerSettings:
        """Shared weights and a shared base are the defender's."""
        separate = self.config.weights == "separate"
        return seated(self.config, self.player if separate else Player.DEFENDER)

    @property
    def _source(self) -> Path:
        return self.run.checkpoints.path(self.at) / self.config.owner(self.player)

    @cached_property
    def _chat(self) -> Chat:
        place = model_path(self._seat.model_name_or_path)
        return Chat(load_tokenizer(place, self._seat.revision))

    def _check(self) -> None:
        if self.player is Player.ATTACKER and not self.understood:
            raise UsageError(
                "--role attacker: a trained attacker rewrites harmful requests so that models "
                "answer them, and must not be published; add --i-understand to export it for "
                "your own tests"
            )
        self.run.checkpoints.verify(self.at)
        if self.folder.exists():
            raise UsageError(f"--output: {self.folder} exists; choose another folder")

    def _base(self) -> Any:
        told = self._seat
        return load_model(model_path(told.model_name_or_path), told.dtype, told.revision)

    def _as_it_played(self) -> tuple[Tensor, Tensor | None, str]:
        """Logits of the player and of its base as the run itself loads them, and the dtype."""
        base = self._base()
        dtype = str(base.dtype).removeprefix("torch.")
        if not self._is_adapter:
            weights = Weights(base)
            weights.read(self._source)
            return logits(weights.model, self._chat), None, dtype
        weights = with_adapters(self.config, base)[self.player]
        weights.read(self._source)
        wanted_NV = logits(weights.model, self._chat)
        with weights.model.disable_adapter():
            return wanted_NV, logits(weights.model, self._chat), dtype

    def _as_others_load(self, folder: Path) -> Any:
        if self._kind == "adapter":
            return load_adapter(self._base(), folder)
        return load_model(str(folder))

    def _copy_card(self, to: Path) -> None:
        """A sandbox base says which language it speaks."""
        here = Path(model_path(self._seat.model_name_or_path)) / CARD
        if here.is_file():
            shutil.copyfile(here, to / CARD)


def _copy(source: Path, to: Path) -> None:
    for path in sorted(source.iterdir()):
        if path.suffix in _KEPT and path.is_file() and not path.is_symlink():
            shutil.copyfile(path, to / path.name)


@contextmanager
def _published(final: Path) -> Iterator[Path]:
    """A temporary folder that becomes `final` if the block ends well, and else is gone."""
    temporary = final.with_name(f"{final.name}.tmp-{os.getpid()}")
    temporary.mkdir(parents=True)
    try:
        yield temporary
        with writing(final):
            for path in [*temporary.iterdir(), temporary]:
                sync_folder(path)
            if final.exists():
                raise UsageError(f"--output: {final} exists; choose another folder")
            os.rename(temporary, final)
            sync_folder(final.parent)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)
