"""A server that speaks vLLM's endpoints as 0.32 does, over a tiny model on this machine.

`/v1/models`, `/v1/completions`, `/v1/load_lora_adapter` and `/v1/unload_lora_adapter`: fields,
status codes and messages are vLLM's. What it draws is a real model's under real PEFT adapters.
"""

import json
import threading
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import torch
from peft import PeftModel
from transformers import AutoModelForCausalLM

MAX_MODEL_LEN = 1024
FIELDS = {
    *("model", "prompt", "max_tokens", "temperature", "logprobs", "stop_token_ids", "ignore_eos"),
    *("return_token_ids", "return_tokens_as_token_ids", "seed", "n", "top_p", "top_k", "min_p"),
    *("presence_penalty", "frequency_penalty", "repetition_penalty"),
}
"""What a request of ours may say; vLLM would ignore a spelling it does not know in silence."""


class Refused(Exception):
    def __init__(self, code, kind, message):
        super().__init__(message)
        self.code, self.kind, self.message = code, kind, message


class Vllm:
    """The state of the server. The attributes below `faults` make it do what one day some will."""

    def __init__(self, path):
        self.path = str(path)
        self.base = AutoModelForCausalLM.from_pretrained(path).eval()
        self.defaults = {"top_p": 0.8, "top_k": 20, "repetition_penalty": 1.05}
        self.model = None
        self.roots = {}
        self.serves = {}
        self.most_loaded = 0
        self.requests = []
        self.lock = threading.Lock()
        # faults
        self.stale = None  # the name that is served instead of a new one
        self.deaf_to_adapters = False
        self.raw_logprobs = False
        self.noise = 0.0
        self.busy = 0
        self.spoil = lambda told: told

    def models(self):
        cards = [{"id": self.path, "object": "model", "root": self.path, "parent": None}]
        cards += [
            {"id": name, "object": "model", "root": root, "parent": self.path}
            for name, root in self.roots.items()
        ]
        return {"object": "list", "data": cards}

    def load(self, told):
        name, root = told["lora_name"], told["lora_path"]
        if name in self.roots:
            raise Refused(
                400,
                "InvalidUserInput",
                f"The lora adapter '{name}' has already been loaded. If you want to load the "
                "adapter in place, set 'load_inplace' to True.",
            )
        self.serves[name] = self.stale or name
        try:
            if self.model is None:
                self.model = PeftModel.from_pretrained(self.base, root, adapter_name=name).eval()
            else:
                self.model.load_adapter(root, adapter_name=name)
        except (OSError, ValueError) as error:
            raise Refused(404, "NotFoundError", f"No adapter found for '{name}'") from error
        self.roots[name] = root
        self.most_loaded = max(self.most_loaded, len(self.roots))
        return f"Success: LoRA adapter '{name}' added successfully."

    def unload(self, told):
        name = told["lora_name"]
        if name not in self.roots:
            raise Refused(404, "NotFoundError", f"The lora adapter '{name}' cannot be found.")
        del self.roots[name]
        if name not in self.serves.values() or list(self.serves.values()) == [name]:
            self.serves.pop(name)
        return f"Success: LoRA adapter '{name}' removed successfully."

    def complete(self, told):
        unknown = told.keys() - FIELDS
        assert not unknown, unknown
        self.requests.append(told)
        if told["model"] not in {*self.roots, self.path}:
            what = f"The model `{told['model']}` does not exist."
            raise Refused(404, "NotFoundError", what)
        if len(told["prompt"]) + told["max_tokens"] > MAX_MODEL_LEN:
            what = f"This model's maximum context length is {MAX_MODEL_LEN} tokens."
            raise Refused(400, "BadRequestError", what)
        ids, logps = self._draw(told)
        finished = ids[-1] in told["stop_token_ids"]
        choice = {
            "index": 0,
            "text": "",
            "logprobs": {
                "text_offset": [0] * len(ids),
                "token_logprobs": logps,
                "tokens": [f"token_id:{i}" for i in ids],
                "top_logprobs": [{f"token_id:{i}": p} for i, p in zip(ids, logps, strict=True)],
            },
            "finish_reason": "stop" if finished else "length",
            "stop_reason": ids[-1] if finished else None,
            "prompt_logprobs": None,
            "token_ids": ids if told.get("return_token_ids") else None,
            "prompt_token_ids": told["prompt"] if told.get("return_token_ids") else None,
        }
        return self.spoil(
            {"object": "text_completion", "model": told["model"], "choices": [choice]}
        )

    @torch.inference_mode()
    def _draw(self, told):
        random = torch.Generator().manual_seed(told["seed"] % 2**63)
        ids, logps = [], []
        with self._adapter(told["model"]) as model:
            cache, unread = None, told["prompt"]
            while len(ids) < told["max_tokens"]:
                out = model(torch.tensor([unread]), past_key_values=cache, use_cache=True)
                cache, logits_V = out.past_key_values, out.logits[0, -1].float()
                drawn_V = self._processed(logits_V, ids, told)
                token = torch.multinomial(drawn_V.softmax(-1), 1, generator=random).item()
                seen_V = logits_V if self.raw_logprobs else drawn_V
                ids.append(token)
                unread = [token]
                noise = self.noise * torch.randn((), generator=random).item()
                logps.append(seen_V.log_softmax(-1)[token].item() - abs(noise))
                if token in told["stop_token_ids"]:
                    break
        return ids, logps

    def _processed(self, logits_V, ids, told):
        """The model's generation config rules wherever a request says nothing."""
        said = {**self.defaults, **told}
        logits_V = logits_V.clone() / said["temperature"]
        if said["repetition_penalty"] != 1 and ids:
            logits_V[ids] -= said["repetition_penalty"]
        if said["top_k"] > 0:
            logits_V[logits_V < logits_V.topk(said["top_k"]).values[-1]] = -torch.inf
        assert said["top_p"] == 1, "this server only knows top_p 1"
        return logits_V

    @contextmanager
    def _adapter(self, name):
        if name == self.path or self.deaf_to_adapters:
            with self.model.disable_adapter() if self.model else self.lock_free():
                yield self.model or self.base
        else:
            self.model.set_adapter(self.serves[name])
            yield self.model

    @contextmanager
    def lock_free(self):
        yield


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def do_GET(self):
        self.answer(lambda _: self.server.vllm.models() if self.path == "/v1/models" else None, {})

    def do_POST(self):
        vllm = self.server.vllm
        told = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        known = {
            "/v1/completions": vllm.complete,
            "/v1/load_lora_adapter": vllm.load,
            "/v1/unload_lora_adapter": vllm.unload,
        }
        self.answer(known.get(self.path), told)

    def answer(self, act, told):
        vllm = self.server.vllm
        with vllm.lock:
            if vllm.busy:
                vllm.busy -= 1
                self.reply(503, "overloaded", "text/plain")
                return
            try:
                said = act(told) if act else None
            except Refused as error:
                body = {"message": error.message, "type": error.kind, "param": None}
                self.reply(error.code, json.dumps({"error": {**body, "code": error.code}}))
                return
        if said is None:
            self.reply(404, json.dumps({"detail": "Not Found"}))
        elif isinstance(said, str):
            self.reply(200, said, "text/plain")
        else:
            self.reply(200, json.dumps(said))

    def reply(self, code, text, kind="application/json"):
        body = text.encode()
        self.send_response(code)
        self.send_header("Content-Type", kind)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_):
        pass


@contextmanager
def serving(path):
    """(the server's state, its URL)."""
    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.vllm = Vllm(path)
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        yield server.vllm, f"http://127.0.0.1:{server.server_port}"
    finally:
        server.shutdown()
        server.server_close()
