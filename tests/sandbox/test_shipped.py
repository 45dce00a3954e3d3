import json

from sparring.players.chat import Chat
from sparring.players.loading import load_model, load_tokenizer
from sparring.players.weights import Weights
from sparring.sandbox.build import gate, recipe_digest
from sparring.sandbox.language import Language
from sparring.sandbox.model import CARD, SHIPPED, language_of
from sparring.sandbox.world import World


def test_the_shipped_base_was_built_by_this_recipe_in_this_language():
    card = json.loads((SHIPPED / CARD).read_text())
    assert card["recipe_sha256"] == recipe_digest()
    assert card["language_sha256"] == Language(card["language_seed"]).digest


def test_the_shipped_base_passes_its_gates():
    chat = Chat(load_tokenizer(str(SHIPPED)))
    rates = gate(Weights(load_model(str(SHIPPED))), chat, World(language_of(SHIPPED)), n=96)
    assert rates["adversarial"] > 0.5


def test_the_weights_are_small():
    assert (SHIPPED / "model.safetensors").stat().st_size <= 2_000_000
