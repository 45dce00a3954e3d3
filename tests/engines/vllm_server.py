"""A server that speaks vLLM's endpoints as 0.32 does, over a tiny model on this machine.

`/v1/models`, `/v1/completions`, `/v1/load_lora_adapter` and `/v1/unload_lora_adapter`: fields,
status codes and messages are vLLM's. What it draws is a real model's under real PEFT adapters.
"""

import json
import threading
from contextlib import contextmanager, nullcontext
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
        self.roots, self.serves, self.requests = {}, {}, []
        self.most_loaded = 0
        self.lock = threading.Lock()
        # faults
        self.stale = None  # the name that is served instead of a new one
        self.deaf_to_adapters = False
        self.raw_logprobs = False
        self.noise = 0.0
        self.busy = 0
        self.spoil = lambda response: response

    def models(self, _):
        cards = [{"id": self.path, "object": "model", "root": self.path, "parent": None}]
        cards += [
            {"id": name, "object": "model", "root": root, "parent": self.path}
            for name, root in self.roots.items()
        ]
        return {"object": "list", "data": cards}

    def load(self, request):
        name, root = request["lora_name"], request["lora_path"]
        if name in self.roots:
            loaded = f"The lora adapter '{name}' has already been loaded. If you want to load the "
            in_place = "adapter in place, set 'load_inplace' to True."
            raise Refused(400, "InvalidUserInput", loaded + in_place)
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

    def unload(self, request):
        name = request["lora_name"]
        if name not in self.roots:
            raise Refused(404, "NotFoundError", f"The lora adapter '{name}' cannot be found.")
        del self.roots[name]
        if name not in self.serves.values() or list(self.serves.values()) == [name]:
            self.serves.pop(name)
        return f"Success: LoRA adapter '{name}' removed successfully."

    def complete(self, request):
        assert not request.keys() - FIELDS, request.keys() - FIELDS
        self.requests.append(request)
        if request["model"] not in {*self.roots, self.path}:
            message = f"The model `{request['model']}` does not exist."
            raise Refused(404, "NotFoundError", message)
        if len(request["prompt"]) + request["max_tokens"] > MAX_MODEL_LEN:
            message = f"This model's maximum context length is {MAX_MODEL_LEN} tokens."
            raise Refused(400, "BadRequestError", message)
        ids, logps = self._draw(request)
        finished = ids[-1] in request["stop_token_ids"]
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
            "token_ids": ids if request.get("return_token_ids") else None,
            "prompt_token_ids": request["prompt"] if request.get("return_token_ids") else None,
        }
        response = {"object": "text_completion", "model": request["model"], "choices": [choice]}
        return self.spoil(response)

    @torch.inference_mode()
    def _draw(self, request):
        random = torch.Generator().manual_seed(request["seed"] % 2**63)
        ids, logps = [], []
        with self._adapter(request["model"]) as model:
            cache, unread = None, request["prompt"]
            while len(ids) < request["max_tokens"]:
                out = model(torch.tensor([unread]), past_key_values=cache, use_cache=True)
                cache, logits_V = out.past_key_values, out.logits[0, -1].float()
                drawn_V = self._processed(logits_V, ids, request)
                token = torch.multinomial(drawn_V.softmax(-1), 1, generator=random).item()
                shown_V = logits_V if self.raw_logprobs else drawn_V
                ids.append(token)
                unread = [token]
                noise = self.noise * torch.randn((), generator=random).item()
                logps.append(shown_V.log_softmax(-1)[token].item() - abs(noise))
                if token in request["stop_token_ids"]:
                    break
        return ids, logps

    def _processed(self, logits_V, ids, request):
        """The model's generation config rules wherever a request says nothing."""
        settings = {**self.defaults, **request}
        logits_V = logits_V.clone() / settings["temperature"]
        if settings["repetition_penalty"] != 1 and ids:
            logits_V[ids] -= settings["repetition_penalty"]
        if settings["top_k"] > 0:
            logits_V[logits_V < logits_V.topk(settings["top_k"]).values[-1]] = -torch.inf
        assert settings["top_p"] == 1, "this server only knows top_p 1"
        return logits_V

    @contextmanager
    def _adapter(self, name):
        if name == self.path or self.deaf_to_adapters:
            with self.model.disable_adapter() if self.model else nullcontext():
                yield self.model or self.base
        else:
            self.model.set_adapter(self.serves[name])
            yield self.model


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def do_GET(self):
        self.answer({"/v1/models": self.server.vllm.models}, {})

    def do_POST(self):
        vllm = self.server.vllm
        known = {
            "/v1/completions": vllm.complete,
            "/v1/load_lora_adapter": vllm.load,
            "/v1/unload_lora_adapter": vllm.unload,
        }
        self.answer(known, json.loads(self.rfile.read(int(self.headers["Content-Length"]))))

    def answer(self, known, request):
        vllm = self.server.vllm
        with vllm.lock:
            if vllm.busy:
                vllm.busy -= 1
                self.reply(503, "overloaded")
            elif self.path not in known:
                self.reply(404, {"detail": "Not Found"})
            else:
                try:
                    self.reply(200, known[self.path](request))
                except Refused as error:
                    body = {"message": error.message, "type": error.kind, "param": None}
                    self.reply(error.code, {"error": {**body, "code": error.code}})

    def reply(self, code, content):
        text = isinstance(content, str)
        body = (content if text else json.dumps(content)).encode()
        self.send_response(code)
        self.send_header("Content-Type", "text/plain" if text else "application/json")
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
    threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True).start()
    try:
        yield server.vllm, f"http://127.0.0.1:{server.server_port}"
    finally:
        server.shutdown()
        server.server_close()
