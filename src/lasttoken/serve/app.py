"""The routes of `lasttoken serve`: three dialects over one way to an answer."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from contextlib import asynccontextmanager
from importlib.metadata import version
from importlib.resources import files
from typing import Any

from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import HTMLResponse, JSONResponse, Response
from starlette.exceptions import HTTPException

from lasttoken.errors import UserError
from lasttoken.explain.explanation import explain, words_of
from lasttoken.serve import dialects, schemas
from lasttoken.serve.batcher import Share
from lasttoken.serve.gate import App, Gate
from lasttoken.serve.limits import Limits, Refusal, draining, failed, invalid, too_large, too_late, unknown
from lasttoken.serve.metrics import Metrics, counted
from lasttoken.serve.served import Served
from lasttoken.wording import counted as counted_words
from lasttoken.wording import did_you_mean, first_line

PAGE_RULES = (
    "default-src 'none'; style-src 'unsafe-inline'; script-src 'unsafe-inline'; connect-src 'self'; img-src data:"
)
TICK = 0.02  # seconds between looks at threads that are ending
PATHS = (
    "/",
    "/predict",
    "/classify",
    "/v1/classify",
    "/v1/models",
    "/explain",
    "/labels",
    "/info",
)  # told apart in /metrics
PROBLEMS: dict[int | str, dict[str, Any]] = {
    status: {"model": schemas.Problem} for status in (400, 401, 404, 408, 413, 422, 424, 429, 503, 504)
}
VLLM_PROBLEMS: dict[int | str, dict[str, Any]] = {status: {"model": schemas.VllmProblem} for status in PROBLEMS}


class Server:
    """The runs that are served, and the way from a request's texts to their answers."""

    def __init__(
        self,
        runs: Sequence[Served],
        limits: Limits,
        *,
        explains: bool,
        stopping: Callable[[], bool],
        leaving: Callable[[], bool],
        hurried: Callable[[], bool],
    ):
        """leaving: whether new requests should go elsewhere. stopping: whether they are refused. hurried: whether to end at once."""
        self.runs: Mapping[str, Served] = {run.name: run for run in runs}
        self.limits, self.explains = limits, explains
        self.stopping, self.leaving, self.hurried = stopping, leaving, hurried

    def run(self, name: str | None) -> Served:
        """The run of that name, the first for None. Raises Refusal."""
        if name is None:
            return next(iter(self.runs.values()))
        if name not in self.runs:
            raise unknown(f"model: no run {name!r} is served{did_you_mean(name, self.runs)}; GET /labels tells which")
        return self.runs[name]

    async def answers(self, run: Served, texts: Sequence[str]) -> Share:
        """The answers for some texts. Raises Refusal where they are too many or too long, or there is no answer."""
        if len(texts) > self.limits.texts:
            raise too_large(f"{len(texts)} texts, at most {self.limits.texts} in a request; send them in several")
        self.check_length(texts)
        return await self.result(run.batcher.submit(texts))

    def check_length(self, texts: Sequence[str]) -> None:
        """Raises Refusal on a text that is too long."""
        longest = max(map(len, texts), default=0)
        if longest > self.limits.characters:
            raise too_large(f"a text of {longest:,} characters, at most {self.limits.characters:,}; shorten it")

    async def result(self, waiting: Awaitable[Any]) -> Any:
        """What a batcher answers. Raises Refusal where it fails or is late."""
        try:
            async with asyncio.timeout(self.limits.timeout):
                return await waiting
        except TimeoutError:
            raise too_late(self.limits.timeout) from None
        except UserError as error:
            raise failed(first_line(error)) from error
        except (RuntimeError, MemoryError) as error:
            if self.stopping():
                raise draining() from error
            raise failed(f"the model failed: {first_line(error)}") from error

    async def close(self) -> None:
        """Answer what is queued, and end the threads; do not wait for them where the end is hurried."""
        for run in self.runs.values():
            run.batcher.close()
        while not self.hurried() and any(run.batcher.thread.is_alive() for run in self.runs.values()):
            await asyncio.sleep(TICK)


def make_app(server: Server, metrics: Metrics, *, token: str | None = None) -> App:
    """The whole server as an ASGI app. token: what clients have to send; None asks for none."""

    @asynccontextmanager
    async def life(_: FastAPI) -> AsyncIterator[None]:
        yield
        await server.close()

    api = FastAPI(
        title="lasttoken",
        version=version("lasttoken"),
        description="Text classification by runs of lasttoken; clients of TEI and vLLM work unchanged.",
        lifespan=life,
        docs_url=None,  # their pages load scripts from elsewhere
        redoc_url=None,
        exception_handlers={
            Refusal: refusal_response,
            RequestValidationError: validation_response,
            HTTPException: http_response,
        },
    )
    add_predictions(api, server)
    add_state(api, server, metrics)
    for run in server.runs.values():
        metrics.waiting.labels(run.name).set_function(lambda batcher=run.batcher: batcher.waiting)

    def refused(status: int) -> None:
        metrics.refused.labels(str(status)).inc()

    inner = counted(api, metrics, PATHS)
    gate = Gate(inner, server.limits, token=token, stopping=server.stopping, refused=refused)
    metrics.inside.set_function(lambda: gate.inside)
    return gate


def add_predictions(api: FastAPI, server: Server) -> None:
    """The routes that label texts."""

    async def predict(asked: schemas.Predict) -> Response:
        run = server.run(asked.model)
        if isinstance(asked, schemas.Ask):
            return JSONResponse(
                dialects.own(run, await server.answers(run, asked.texts), asked.texts, probs=asked.probs)
            )
        return await tei(asked)

    async def tei(asked: schemas.TeiAsk) -> Response:
        run, texts = server.run(asked.model), dialects.tei_texts(asked)
        return JSONResponse(dialects.tei(await server.answers(run, texts), asked))

    async def classify(asked: schemas.VllmAsk) -> Response:
        run, texts = server.run(asked.model), [asked.input] if isinstance(asked.input, str) else asked.input
        if not texts:
            raise invalid("input: send at least one text")
        return JSONResponse(dialects.vllm(run, await server.answers(run, texts), asked.use_activation))

    async def explained(asked: schemas.ExplainAsk) -> Response:
        run = server.run(asked.model)
        if not server.explains:
            raise Refusal(403, "Validation", "this server does not explain; start it with --explain")
        server.check_length([asked.text])
        if (words := len(words_of(asked.text))) > server.limits.words:
            raise too_large(
                f"a text of {words} words, at most {server.limits.words} to be explained; send a part of it"
            )
        names = run.predictor.labels.names
        if asked.label is not None and asked.label not in names:
            raise invalid(f"label: {asked.label!r} is not among the labels{did_you_mean(asked.label, names)}")
        label = None if asked.label is None else [asked.label]
        (found, *_) = await server.result(
            run.batcher.call(lambda: explain(run.predictor, asked.text, label, by="removal"))
        )
        pairs = zip(found.words, found.scores, strict=True)
        marks = [{"start": a, "end": b, "score": None if score != score else score} for (a, b), score in pairs]
        return JSONResponse({"label": found.label, "by": found.by, "words": marks})

    scores = list[schemas.Score]
    many: dict[str, Any] = {"methods": ["POST"], "responses": PROBLEMS}
    own_or_tei = schemas.Answers | scores | list[scores]
    api.add_api_route("/predict", predict, response_model=own_or_tei, summary="Label texts", **many)
    api.add_api_route("/", tei, response_model=scores | list[scores], summary="Label texts, as TEI", **many)
    as_vllm = many | {"responses": VLLM_PROBLEMS, "response_model": schemas.VllmAnswers}
    for path in ("/classify", "/v1/classify"):
        api.add_api_route(path, classify, summary="Label texts, as vLLM", **as_vllm)
    many = many | {"responses": PROBLEMS | {403: {"model": schemas.Problem}}}
    api.add_api_route("/explain", explained, response_model=schemas.Explained, summary="What words add", **many)


def add_state(api: FastAPI, server: Server, metrics: Metrics) -> None:
    """The routes that tell how the server is and what it serves."""

    async def alive() -> Response:
        return JSONResponse({"status": "ok"})

    async def ready() -> Response:
        if server.leaving():
            raise draining()
        return JSONResponse({"status": "ready"})

    async def labels() -> Response:
        return JSONResponse({"explains": server.explains, "models": [described(run) for run in server.runs.values()]})

    async def models() -> Response:
        return JSONResponse(dialects.vllm_models(server.runs.values()))

    async def info() -> Response:
        return JSONResponse(tei_info(server))

    async def measured() -> Response:
        return Response(metrics.text(), media_type="text/plain; version=0.0.4")

    async def page() -> Response:
        text = files("lasttoken.serve").joinpath("playground.html").read_text(encoding="utf-8")
        return HTMLResponse(text, headers={"content-security-policy": PAGE_RULES, "referrer-policy": "no-referrer"})

    routes: dict[str, tuple[Callable[[], Awaitable[Response]], str]] = {
        "/healthz": (alive, "The process lives"),
        "/health": (alive, "The process lives, as TEI"),
        "/ping": (alive, "The process lives, as TEI"),
        "/readyz": (ready, "Requests are taken"),
        "/labels": (labels, "Runs, their labels and thresholds"),
        "/v1/models": (models, "The runs, as vLLM"),
        "/info": (info, "The first run, as TEI"),
        "/metrics": (measured, "Counts and times, for Prometheus"),
        "/": (page, "A page to try texts on"),
    }
    for path, (function, summary) in routes.items():
        more: dict[int | str, dict[str, Any]] = {503: {"model": schemas.Problem}} if path == "/readyz" else {}
        kind = schemas.VllmModels if path == "/v1/models" else None
        api.add_api_route(path, function, methods=["GET"], response_model=kind, summary=summary, responses=more)


def described(run: Served) -> dict[str, Any]:
    """A run, its labels and how it decides."""
    space, rule, limits = run.predictor.labels, run.predictor.policy.rule, run.thresholds()
    return {
        "name": run.name,
        "digest": run.digest,
        "method": run.method,
        "base": run.base,
        "several": space.multi,
        "labels": [
            {"name": name, "threshold": None if limits is None else limits[j]} for j, name in enumerate(space.names)
        ],
        "abstain_below": rule.abstain_below or None,
        "coverage": rule.coverage or None,
    }


def tei_info(server: Server) -> dict[str, Any]:
    """The first run in the words of TEI's /info."""
    run = next(iter(server.runs.values()))
    names = run.predictor.labels.names
    return {
        "model_id": run.name,
        "model_sha": run.digest,
        "model_type": {
            "classifier": {
                "id2label": {str(j): name for j, name in enumerate(names)},
                "label2id": {name: j for j, name in enumerate(names)},
            }
        },
        "max_concurrent_requests": server.limits.requests,
        "max_input_length": run.limit,
        "max_batch_tokens": run.batcher.tokens,
        "max_client_batch_size": server.limits.texts,
        "auto_truncate": True,
        "version": version("lasttoken"),
    }


async def refusal_response(request: Request, refusal: Exception) -> Response:
    """A refusal, in the form of the dialect."""
    assert isinstance(refusal, Refusal)
    return JSONResponse(refusal.content(request.url.path), refusal.status, refusal.headers)


async def validation_response(request: Request, error: Exception) -> Response:
    """What is wrong with a body, in one sentence."""
    assert isinstance(error, RequestValidationError)
    told = []
    for one in error.errors():
        if one["type"] == "json_invalid":
            told.append(f"the body is no JSON from character {one['loc'][-1]} on")
            continue
        _, *inside = one["loc"]  # body
        inside = inside[1:] if inside[:1] in (["own"], ["tei"]) else inside
        if not inside:
            told.append('send JSON such as {"texts": ["..."]} with the header content-type: application/json')
            continue
        place = ".".join(map(str, inside))
        told.append(f"{place}: {one['msg']}")
    more = f" (and {counted_words(len(told) - 3, 'more mistake', 'more mistakes')})" if len(told) > 3 else ""
    return await refusal_response(request, invalid("; ".join(told[:3]) + more))


async def http_response(request: Request, error: Exception) -> Response:
    """Starlette's errors (no such path, no such method, no JSON) in the same form."""
    assert isinstance(error, HTTPException)
    kind = "Validation" if error.status_code < 500 else "Backend"
    content = Refusal(error.status_code, kind, str(error.detail)).content(request.url.path)
    return JSONResponse(content, error.status_code, dict(error.headers or {}))
