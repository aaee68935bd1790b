"""Chat-completions servers, and the teachers that label a small share of the pool."""

from typing import Literal
from urllib.parse import urlsplit

from pydantic import Field, field_validator, model_validator

from recipes.schema.base import Fraction, PathText, Section, Seed


class Server(Section):
    """How a chat-completions server is reached, and what it may cost.

    Only `max_failed` is part of a result's identity; what is served is identified by the model's name.
    """

    url: str | None = Field(
        None, description="address up to and including /v1 (vLLM, SGLang, a paid service); default: OpenAI's"
    )
    key_env: str | None = Field(
        None,
        pattern=r"^[A-Za-z_]\w*$",
        description="name of the environment variable that holds the API key, never the key itself; default: "
        "OPENAI_API_KEY for OpenAI's address, no key for others",
    )
    concurrency: int = Field(8, ge=1, description="samples requested concurrently")
    timeout: float = Field(
        60.0, gt=0, description="seconds for one attempt, from the connection to the last byte of the answer"
    )
    retries: int = Field(
        4, ge=0, description="further attempts after a timeout, a lost connection, 408, 409, 429 or 5xx"
    )
    longest_wait: float = Field(
        60.0, ge=0, description="a request whose server asks for a longer wait, in seconds, fails at once"
    )
    max_failed: Fraction = Field(
        0.05,
        description="the run stops if a larger share of the samples has no usable answer; a new run requests "
        "those again",
    )
    input_price: float = Field(0.0, ge=0, description="US dollars per million input tokens")
    output_price: float = Field(0.0, ge=0, description="US dollars per million output tokens")
    max_cost_usd: float | None = Field(
        None,
        gt=0,
        description="the run stops before a request that might exceed this cost; an attempt without an "
        "answer counts in full",
    )
    image_tokens: int = Field(
        2000, ge=0, description="upper bound of the tokens that an image costs, for max_cost_usd"
    )
    token_field: Literal["max_tokens", "max_completion_tokens"] = Field(
        "max_tokens", description="the request's field for the maximum number of output tokens"
    )

    @field_validator("url")
    @classmethod
    def _no_secret_in_the_address(cls, url: str | None) -> str | None:
        """The address is written into recipe.yaml, logs and trackers. The message must not repeat it."""
        parts = urlsplit(url or "")
        if parts.username or parts.password or parts.query or parts.fragment:
            raise ValueError(
                "an address must not contain a user, a password or a query; put the key into an environment "
                "variable and name that in key_env"
            )
        return url

    @model_validator(mode="after")
    def _a_cost_cap_needs_prices(self) -> "Server":
        if self.max_cost_usd is not None and not (self.input_price or self.output_price):
            raise ValueError("max_cost_usd needs input_price and output_price")
        return self


class Batch(Section):
    """How a service's batch endpoint is used; what it does not answer goes by usual requests at last."""

    price: Fraction = Field(0.5, gt=0, description="share of the prices that requests in a batch cost")
    poll: float = Field(60.0, gt=0, description="seconds between two questions for the state of a batch")
    rounds: int = Field(2, ge=1, description="batches, each with what the one before left without an answer")
    hours: float = Field(26.0, gt=0, description="how long one is waited for; a new run goes on waiting")


class Teacher(Section):
    """What labels a small share of the pool, so that scorer and styler can be trained: common settings."""

    share: Fraction = Field(0.05, gt=0, description="share of the pool that is labelled")
    floor: int = Field(3, ge=0, description="minimum number of labels of every source, however small it is")
    temper: Fraction = Field(
        1.0,
        description="the other labels are distributed over the sources by size to this power: 1 = in "
        "proportion, 0 = equally",
    )
    seed: Seed = Field(0, description="draws the labelled share (and, for `metadata`, the noise)")


class MetadataTeacher(Teacher):
    """The mini world's ground truth, with noise."""

    kind: Literal["metadata"]
    noise: Fraction = Field(0.2, description="share of the scores that are moved by one")
    knows_wrong: bool = Field(
        False, description="whether the teacher may notice that a planted answer is wrong"
    )
    knows_rate: Fraction = Field(0.7, description="share of the wrong answers that it then notices")


class ApiTeacher(Teacher):
    """A vision model behind a chat-completions server.

    One request for each sample; one JSON answer holds all scores and styles.
    """

    kind: Literal["api"]
    model: str = Field(
        min_length=1,
        description="the model's name on the server; it identifies the labels, so another model needs "
        "another name",
    )
    prompt: PathText | None = Field(
        None,
        description="text file with instructions in place of the built-in ones "
        "(curation/teacher/api.py); the rubric and the style keys are appended to them",
    )
    detail: Literal["low", "high", "auto"] | None = Field(None, description="image detail of the API")
    json_schema: bool = Field(
        True,
        description="ask the server for answers of this JSON schema; answers are validated in either case",
    )
    repeats: int = Field(
        2, ge=0, description="how often an invalid answer is sent back together with its problems"
    )
    max_tokens: int = Field(512, ge=1, description="maximum tokens of an answer")
    agreement: Fraction = Field(
        0.0,
        description="share of these samples that is labelled a second time, with the capabilities and styles "
        "in reverse order; labels.json says how far the two agree",
    )
    mode: Literal["requests", "batch"] = Field(
        "requests",
        description="batch: first requests go to the service's batch endpoint (answers within a day, at half "
        "the price); the labels are identified alike",
    )
    batch: Batch = Batch()
    server: Server = Server()
