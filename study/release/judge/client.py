"""Send one request to an OpenAI-compatible endpoint: retried, within a budget, its key unseen."""

import json
import math
import threading
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from typing import Any
from urllib.parse import urlsplit

from study.config.environment import JUDGE_KEY
from study.errors import ConfigError, ModelError, StudyError, first_line

LONGEST_WAIT_S = 600
"""Beyond which nobody waits for an endpoint that says when to come back."""

PASSING = (408, 409, 429)
"""Statuses that may pass, beside those from 500 on."""

NO_MONEY = ("insufficient_quota", "billing_hard_limit_reached")
"""Codes of 429 that waiting does not mend."""

HALF, LATE, FAILED = "half an answer", "no answer in time", "the endpoint failed"
"""What is left when all tries are over; asked again the next time."""


@dataclass(frozen=True, kw_only=True)
class Endpoint:
    """Where a judge answers, and what it may cost."""

    url: str
    model: str
    key: str = field(default="", repr=False)
    answer_tokens: int = 16
    """New tokens that it may use; models that reason first need hundreds."""
    body: Mapping[str, Any] = field(default_factory=dict)
    """Fields of a request to add or, where None, to leave out."""
    price_in: float | None = None
    price_out: float | None = None
    """Per million tokens of prompts and of answers."""
    max_calls: int | None = None
    max_cost: float | None = None
    parallel: int = 4
    tries: int = 6
    timeout_s: float = 60.0
    first_wait_s: float = 1.0
    """Upper bound of the first random wait; it doubles, up to a minute."""

    def __post_init__(self) -> None:
        """Refuse addresses that would give a key away, and limits without prices."""
        url = urlsplit(self.url)
        host = url.hostname
        if url.scheme not in ("http", "https") or not host:
            raise ConfigError("--endpoint must be http:// or https:// and a host, often with /v1")
        if "@" in url.netloc or url.query or url.fragment:
            raise ConfigError(
                f"--endpoint must be a bare address, without a password or a query, because "
                f"records name it; put the key into {JUDGE_KEY}"
            )
        if self.key and url.scheme == "http" and host not in ("localhost", "127.0.0.1", "::1"):
            raise ConfigError(f"{JUDGE_KEY} is not sent unencrypted to {host}; use https://")
        priced = self.price_in is not None and self.price_out is not None
        if not priced and (self.max_cost, self.price_in, self.price_out) != (None, None, None):
            raise ConfigError(
                "a cost is known with both --price-in and --price-out, per million tokens"
            )

    @property
    def address(self) -> str:
        """Where requests are sent."""
        bare = self.url.rstrip("/")
        return bare if bare.endswith("/chat/completions") else f"{bare}/chat/completions"

    def cost(self, prompt_tokens: float, answer_tokens: float) -> float | None:
        """Return what tokens cost; None without prices."""
        if self.price_in is None or self.price_out is None:
            return None
        return (prompt_tokens * self.price_in + answer_tokens * self.price_out) / 1e6

    def cleaned(self, text: str) -> str:
        """Return a text of the endpoint without the key, which some repeat in their errors."""
        told = " ".join(text.split())[:200]
        return told.replace(self.key, "(key)") if self.key else told


@dataclass(frozen=True, kw_only=True)
class Reply:
    """What the endpoint answered."""

    text: str
    ended: str
    """Its ``finish_reason``."""


class OverBudgetError(StudyError):
    """The next call would go beyond what may be spent."""


class Refused(Exception):  # noqa: N818 - an outcome
    """The endpoint will not answer this request."""


class Passing(Exception):  # noqa: N818 - an outcome
    """Something that may pass by the next try."""

    def __init__(self, why: str, detail: str = "", wait_s: float = 0.0) -> None:
        super().__init__(f"{why}: {detail}" if detail else why)
        self.why = why
        self.wait_s = wait_s


class Stopped(Exception):  # noqa: N818 - an outcome
    """Nothing more is to be sent."""


class Spending:
    """What was spent, and whether more may be; threads share it."""

    def __init__(self, endpoint: Endpoint) -> None:
        self.endpoint = endpoint
        self.lock = threading.Lock()
        self.spent = {"calls": 0.0, "prompt_tokens": 0.0, "answer_tokens": 0.0}
        if endpoint.price_in is not None:
            self.spent["cost"] = 0.0

    def reserve(self, prompt_tokens: int) -> float:
        """Take the most that a call may cost, and return it.

        Raises:
            OverBudgetError: it is not left.
        """
        end = self.endpoint
        most = end.cost(prompt_tokens, end.answer_tokens) or 0.0
        with self.lock:
            if end.max_calls is not None and self.spent["calls"] + 1 > end.max_calls:
                raise OverBudgetError(f"the limit of {end.max_calls} calls is reached")
            if end.max_cost is not None and self.spent["cost"] + most > end.max_cost:
                raise OverBudgetError(
                    f"the limit of {end.max_cost:g} leaves no room for another call "
                    f"({self.spent['cost']:.4g} spent)"
                )
            self.spent["calls"] += 1
            if "cost" in self.spent:
                self.spent["cost"] += most
        return most

    def settle(self, reserved: float, prompt_tokens: float, answer_tokens: float) -> None:
        """Put what a call took in the place of what was reserved for it."""
        with self.lock:
            self.spent["prompt_tokens"] += prompt_tokens
            self.spent["answer_tokens"] += answer_tokens
            if "cost" in self.spent:
                cost = self.endpoint.cost(prompt_tokens, answer_tokens) or 0.0
                self.spent["cost"] += cost - reserved


class Client:
    """Sends requests; one for all threads."""

    def __init__(
        self,
        endpoint: Endpoint,
        spending: Spending,
        sleep: Callable[[float], None] | None = None,
    ) -> None:
        """Open a connection that is kept; ``sleep`` waits between tries."""
        import httpx2
        import tenacity

        self.stop = threading.Event()

        self.endpoint, self.spending = endpoint, spending
        headers = {"Authorization": f"Bearer {endpoint.key}"} if endpoint.key else {}
        self.http = httpx2.Client(headers=headers, timeout=endpoint.timeout_s)
        backoff = tenacity.wait_random_exponential(multiplier=endpoint.first_wait_s, max=60)

        def wait(state: tenacity.RetryCallState) -> float:
            error = state.outcome.exception() if state.outcome else None
            return max(backoff(state), getattr(error, "wait_s", 0.0))

        self.retrying = tenacity.Retrying(
            retry=tenacity.retry_if_exception_type(Passing),
            stop=tenacity.stop_after_attempt(endpoint.tries),
            wait=wait,
            sleep=sleep or tenacity.sleep_using_event(self.stop),
            reraise=True,
        )

    def ask(self, body: Mapping[str, Any], prompt_tokens: int) -> Reply:
        """Send a request until it is answered.

        Raises:
            Passing: it was not, in all tries.
            Refused: the endpoint will not answer this one.
            OverBudgetError: no further call is allowed.
            ModelError: it will answer none.
            Stopped: another thread has failed.
        """
        return self.retrying.copy()(self._once, body, prompt_tokens)

    def _once(self, body: Mapping[str, Any], prompt_tokens: int) -> Reply:
        import httpx2

        if self.stop.is_set():
            raise Stopped
        reserved = self.spending.reserve(prompt_tokens)
        try:
            response = self.http.post(self.endpoint.address, json=dict(body))
        except httpx2.TimeoutException as error:
            raise Passing(LATE) from error  # it may cost all the same: nothing is given back
        except (httpx2.RemoteProtocolError, httpx2.ReadError, httpx2.DecodingError) as error:
            raise Passing(HALF, type(error).__name__) from error
        except httpx2.HTTPError as error:
            self.spending.settle(reserved, 0, 0)
            raise Passing(FAILED, self.endpoint.cleaned(first_line(error))) from error
        if response.status_code != httpx2.codes.OK:
            self.spending.settle(reserved, 0, 0)
            raise self._failure(response)
        try:
            found = response.json()
            choice = found["choices"][0]
            text = choice["message"].get("content") or ""
            usage = found.get("usage") or {}
            taken = (
                float(usage.get("prompt_tokens", prompt_tokens)),
                float(usage.get("completion_tokens", math.ceil(len(text) / 4))),
            )
        except (ValueError, KeyError, IndexError, TypeError, AttributeError) as error:
            raise Passing(HALF, f"{type(error).__name__} in what it sent") from error
        self.spending.settle(reserved, *taken)
        return Reply(text=str(text), ended=str(choice.get("finish_reason") or ""))

    def _failure(self, response: Any) -> Exception:
        """Return what a status means."""
        status, (code, told) = response.status_code, self._told(response)
        where = f"{self.endpoint.address} answers {status}"
        if status in PASSING or status >= 500:
            if code in NO_MONEY:
                return ModelError(f"{where}, {code}: {told}; verdicts so far are kept")
            wait = wait_asked(response.headers.get("Retry-After"))
            if wait > LONGEST_WAIT_S:
                return ModelError(
                    f"{where} and asks to come back in {wait / 60:.0f} minutes; verdicts so far "
                    "are kept: start the same command again then"
                )
            return Passing(FAILED, f"{status} {told}", wait)
        if status in (400, 413, 422):
            return Refused(f"{status} {told}")
        hints = {
            401: f"set the key in the environment, {JUDGE_KEY}"
            if not self.endpoint.key
            else f"see {JUDGE_KEY}",
            403: f"see {JUDGE_KEY} and what it may use",
            404: f"is {self.endpoint.model!r} a model of {self.endpoint.url}? Addresses usually "
            "end with /v1",
        }
        hint = hints.get(status, "give the address that answers itself")
        return ModelError(f"{where} {told}; {hint}")

    def _told(self, response: Any) -> tuple[str, str]:
        """Return the code and the words of an error."""
        try:
            error = response.json()["error"]
            code, words = str(error.get("code") or ""), str(error.get("message") or "")
        except (ValueError, KeyError, TypeError, AttributeError):
            code, words = "", response.text
        return code, self.endpoint.cleaned(words)


def wait_asked(header: str | None) -> float:
    """Return the seconds that a ``Retry-After`` asks for: a number, or a date; else 0."""
    if not header:
        return 0.0
    try:
        seconds = float(header)
    except ValueError:
        try:
            seconds = (parsedate_to_datetime(header) - datetime.now(UTC)).total_seconds()
        except (ValueError, TypeError):
            return 0.0
    return max(0.0, seconds) if math.isfinite(seconds) else 0.0


def read_body(text: str) -> dict[str, Any]:
    """Read fields for a request from the command line.

    Raises:
        ConfigError: it is no JSON object.
    """
    try:
        found = json.loads(text)
    except ValueError as error:
        raise ConfigError(f"--body is not JSON ({error})") from error
    if not isinstance(found, dict):
        raise ConfigError("--body must be a JSON object, such as '{\"max_tokens\": 200}'")
    return found
