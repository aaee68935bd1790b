"""A stub of vLLM, which is not installed here."""

import types

import numpy as np
from chat_server import token_logprobs


class StubVllm(types.ModuleType):
    """The used part of vLLM; values are a function of the request, calls are recorded."""

    __version__ = "0.0"

    def __init__(self, blind=False):
        super().__init__("vllm")
        self.calls, self.arguments = [], None
        stub = self

        class SamplingParams:
            def __init__(self, **given):
                self.given = given

        class LLM:
            def __init__(self, **given):
                stub.arguments = given

            def generate(self, prompts, params, use_tqdm=True):
                stub.calls.append((prompts, params.given))
                return [stub.output(prompt, params.given) for prompt in prompts]

        self.SamplingParams, self.LLM, self.blind = SamplingParams, LLM, blind

    def output(self, prompt, given):
        pixels = (
            []
            if self.blind
            else [
                np.asarray(image).tobytes().hex()
                for image in prompt.get("multi_modal_data", {}).get("image", [])
            ]
        )
        text = " ".join(map(str, prompt["prompt_token_ids"]))
        table = token_logprobs({"messages": [{"role": "user", "content": text + "".join(pixels)}]})
        tokens = sorted(table.items(), key=lambda entry: -entry[1])[: given.get("logprobs", 0)]
        ids = {
            token: self.digit_ids[int(token)] if token.isdigit() else 500 + int(token[4:]) for token in table
        }
        listed = {ids[token]: types.SimpleNamespace(logprob=value) for token, value in tokens}
        answer = types.SimpleNamespace(
            text="choice , word", logprobs=[listed], token_ids=[1, 2, 3], finish_reason="stop"
        )
        return types.SimpleNamespace(
            outputs=[answer], prompt_token_ids=prompt["prompt_token_ids"], num_cached_tokens=2
        )
