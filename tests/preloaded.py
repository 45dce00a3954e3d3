"""Imports and a loaded model that all short runs share through their fork server."""

import peft  # noqa: F401
import torch
import typer  # noqa: F401

import sparring.runs.train  # noqa: F401
from sparring.players.loading import load_model, load_tokenizer
from sparring.players.logprobs import logprobs  # noqa: F401
from sparring.runs.models import model_path

torch.set_num_threads(1)
load_model(model_path("sandbox"))
load_tokenizer(model_path("sandbox"))
