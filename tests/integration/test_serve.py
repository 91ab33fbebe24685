"""`lasttoken serve` as its clients meet it: a real process, public clients, bad requests, floods, and its end."""

from __future__ import annotations

import json
import random
import re
import signal
import socket
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any
from unittest.mock import ANY

import browser
import pytest
from clicked import proxied, visited
from serving import Serving, serving

TEXTS = ["Return the sum of an array.", "Open a file and read its lines."]


@pytest.fixture(scope="module")
def server(runs: dict[str, Path]) -> Iterator[Serving]:
    """Two runs: `words` (linear) and embedding."""
    with serving(f"words={runs['linear']}", runs["embedding"], "--device", "cpu", "--texts", "40") as found:
        yield found
        assert found.end() == 0


def test_answers_are_those_of_predict(
    server: Serving, runs: dict[str, Path], command: Callable[..., Any], tmp_path: Path
) -> None:
    source, target = tmp_path / "new.csv", tmp_path / "out.jsonl"
    source.write_text("text\n" + "\n".join(TEXTS) + "\n")
    assert command("predict", runs["embedding"], source, "-o", target, "--probs", "--device", "cpu").code == 0
    wanted = [json.loads(line) for line in target.read_text().splitlines()]
    status, found, _ = server.ask("/predict", {"texts": TEXTS, "probs": True, "model": "embedding"})
    assert (status, found["model"], len(found["digest"])) == (200, "embedding", 64)
    for answer, row in zip(found["answers"], wanted, strict=True):
        assert answer["label"] == row["predicted_label"] == answer["decision"]
        assert answer["probability"] == pytest.approx(row["predicted_probability"], abs=1e-6)
        assert answer["probs"] == pytest.approx(
            {name[2:-1]: p for name, p in row.items() if name[:2] == "p("}, abs=1e-6
        )
        assert (answer["abstained"], answer["truncated"]) == (False, 0)


def test_the_first_run_answers_where_none_is_named_and_others_by_name(server: Serving) -> None:
    assert server.ask("/predict", {"texts": TEXTS})[1]["model"] == "words"
    status, found, _ = server.ask("/predict", {"texts": TEXTS, "model": "embeding"})
    assert (status, found["error"]) == (
        404,
        "model: no run 'embeding' is served; did you mean 'embedding'?; GET /labels tells which",
    )


def test_the_client_of_the_hub_works_unchanged(server: Serving, monkeypatch: pytest.MonkeyPatch) -> None:
    from huggingface_hub import InferenceClient, constants

    monkeypatch.setattr(constants, "is_offline_mode", lambda: False)  # it would refuse this machine's own address too
    own = server.ask("/predict", {"texts": TEXTS[:1], "probs": True})[1]["answers"][0]["probs"]
    for path in ("/predict", "/"):
        found = InferenceClient(model=server.address + path).text_classification(TEXTS[0])
        assert {each.label: each.score for each in found} == own
        assert [each.score for each in found] == sorted(own.values(), reverse=True)
    (best,) = InferenceClient(model=server.address).text_classification(TEXTS[0], top_k=1)
    assert best.score == max(own.values())


def test_tei(server: Serving) -> None:
    one = server.ask("/predict", {"inputs": TEXTS[0]})[1]
    batch = server.ask("/predict", {"inputs": [[text] for text in TEXTS], "truncate": True})[1]
    assert batch[0] == one
    assert [len(row) for row in batch] == [4, 4]
    status, found, _ = server.ask("/predict", {"inputs": TEXTS})
    assert (status, found["error_type"]) == (422, "Validation")
    assert 'for a batch send a list of lists: [["first text"], ["second text"]]' in found["error"]
    info = server.ask("/info")[1]
    assert info["model_type"]["classifier"]["label2id"] == {"numpy": 0, "pandas": 1, "python": 2, "torch": 3}
    assert info["max_client_batch_size"] == 40
    assert [server.ask(path)[0] for path in ("/health", "/ping", "/healthz", "/readyz")] == [200] * 4


def test_an_openai_client_asks_as_of_vllm(server: Serving) -> None:
    from openai import NotFoundError, OpenAI

    client = OpenAI(base_url=server.address + "/v1", api_key="none", max_retries=0)
    found: Any = client.post("/classify", body={"model": "embedding", "input": TEXTS}, cast_to=object)
    own = server.ask("/predict", {"texts": TEXTS, "probs": True, "model": "embedding"})[1]["answers"]
    assert [each["label"] for each in found["data"]] == [each["label"] for each in own]
    assert [each["probs"] for each in found["data"]] == [
        pytest.approx(list(each["probs"].values()), abs=1e-6) for each in own
    ]
    assert found["usage"]["prompt_tokens"] > 10
    assert [model.id for model in client.models.list()] == ["words", "embedding"]
    with pytest.raises(NotFoundError, match=r"no run 'embeding' is served; did you mean 'embedding'\?") as stopped:
        client.post("/classify", body={"model": "embeding", "input": TEXTS}, cast_to=object)
    assert stopped.value.body == {"message": ANY, "type": "Validation", "param": None, "code": 404}
    assert server.ask("/classify", {"text": "a"})[1]["error"]["code"] == 422
    assert server.ask("/classify", {"input": TEXTS[0]})[1]["data"][0]["num_classes"] == 4


def test_labels_metrics_and_openapi(server: Serving) -> None:
    found = server.ask("/labels")[1]
    assert [model["name"] for model in found["models"]] == ["words", "embedding"]
    assert found["models"][0]["labels"][0] == {"name": "numpy", "threshold": None}
    server.ask("/predict", {"texts": TEXTS})
    measured = server.ask("/metrics")[1]
    assert float(re.findall(r'lasttoken_requests_total\{path="/predict",status="200"\} (\S+)', measured)[0]) >= 1
    assert float(re.findall(r'lasttoken_texts_total\{model="words"\} (\S+)', measured)[0]) >= 2
    assert 'lasttoken_waiting_texts{model="embedding"} 0.0' in measured
    schema = server.ask("/openapi.json")[1]
    assert schema["components"]["schemas"]["Ask"]["properties"]["texts"]["examples"]
    assert {"/predict", "/classify", "/v1/classify", "/labels", "/metrics"} <= schema["paths"].keys()


@pytest.mark.parametrize(
    ("body", "status", "told"),
    [
        ({"texts": []}, 422, "texts: List should have at least 1 item"),
        ({"texts": "one"}, 422, "texts: Input should be a valid list"),
        ({"texts": [1]}, 422, "texts.0: Input should be a valid string"),
        ({"text": ["a"]}, 422, "texts: Field required; text: Extra inputs are not permitted"),
        (b'{"texts": ["a"', 422, "the body is no JSON from character 14 on"),
        (b"", 422, 'send JSON such as {"texts": ["..."]} with the header content-type: application/json'),
        (b"[1]", 422, "send JSON such as"),
        (b"null", 422, "send JSON such as"),
        (b'"x"', 422, "send JSON such as"),
        ({"texts": ["a"], "inputs": "b"}, 422, "inputs: Extra inputs are not permitted"),
        ({"texts": ["a"], "body": 1}, 422, "body: Extra inputs are not permitted"),
        (b"\x80abc", 400, "There was an error parsing the body"),
        (b"[" * 100_000, 400, "There was an error parsing the body"),
        ({"texts": ["a"] * 41}, 413, "41 texts, at most 40 in a request; send them in several"),
        ({"texts": ["a" * 100_001]}, 413, "a text of 100,001 characters, at most 100,000; shorten it"),
        (b" " * 4_000_001, 413, "a request may have 4,000,000 bytes"),
    ],
    ids=lambda given: str(given)[:24] if not isinstance(given, bytes) else str(given[:12]),
)
def test_what_cannot_be_answered_is_told_in_a_sentence(server: Serving, body: Any, status: int, told: str) -> None:
    found = server.ask("/predict", body)
    assert (found[0], found[1]["error_type"]) == (status, "Validation")
    assert told in found[1]["error"]


@pytest.mark.parametrize("text", ["", " ", "\x00", "\ud83d", "😀" * 300, "a " * 3000])
def test_any_text_has_an_answer(server: Serving, text: str) -> None:
    for model in ("words", "embedding"):
        status, found, _ = server.ask("/predict", {"texts": [text], "model": model})
        assert (status, len(found["answers"])) == (200, 1)
    cut = server.ask("/predict", {"texts": ["a " * 3000], "model": "embedding"})[1]["answers"][0]["truncated"]
    assert cut > 1000


def test_words_of_a_text_are_explained(server: Serving) -> None:
    status, found, _ = server.ask("/explain", {"text": "Return an array"})
    assert (status, found["by"]) == (200, "removal")
    assert [(word["start"], word["end"]) for word in found["words"]] == [(0, 6), (7, 9), (10, 15)]
    assert server.ask("/explain", {"text": "a", "label": "numpi"})[1]["error"].endswith("did you mean 'numpy'?")
    assert server.ask("/explain", {"text": "a " * 301})[0] == 413


def test_sixty_four_clients_at_once_get_their_own_answers(server: Serving) -> None:
    texts = [f"{word} {i}" for i in range(16) for word in ("array", "file", "tensor", "frame")]

    def one(text: str) -> Any:
        status, found, _ = server.ask("/predict", {"texts": [text], "probs": True, "model": "embedding"})
        assert status == 200
        return found["answers"][0]["probs"]

    with ThreadPoolExecutor(64) as pool:
        together = list(pool.map(one, texts))
    for text, probs in list(zip(texts, together, strict=True))[:8]:
        assert probs == pytest.approx(one(text), abs=1e-5)  # sums of other shapes round otherwise
    measured = server.ask("/metrics")[1]
    batches = float(re.findall(r'lasttoken_batch_texts_count\{model="embedding"\} (\S+)', measured)[0])
    predicted = float(re.findall(r'lasttoken_texts_total\{model="embedding"\} (\S+)', measured)[0])
    assert batches < predicted  # some went together


def test_bytes_that_are_no_http_and_clients_that_stall_do_not_harm(server: Serving) -> None:
    draw = random.Random(0)
    good = (
        b"POST /predict HTTP/1.1\r\nhost: a\r\ncontent-type: application/json\r\ncontent-length: 16\r\n\r\n"
        + b'{"texts": ["a"]}'
    )
    left = []
    for kind in range(120):
        raw = bytearray(good)
        for _ in range(draw.randrange(1, 12)):
            place = draw.randrange(len(raw))
            raw[place : place + draw.randrange(3)] = draw.randbytes(draw.randrange(4))
        link = socket.create_connection(("127.0.0.1", server.port), timeout=30)
        link.sendall(bytes(raw) if kind % 3 else draw.randbytes(200))
        if kind % 4 == 0:
            link.shutdown(socket.SHUT_WR)  # half-closed
        if kind % 5:
            link.close()  # without reading
        else:
            left.append(link)  # stalls
    big = socket.create_connection(("127.0.0.1", server.port), timeout=30)
    with pytest.raises(OSError):  # noqa: PT011 - closed while it is sent: reset or broken pipe
        big.sendall(b"a" * 40_000_000)  # a request line without end
    big.close()
    assert server.ask("/predict", {"texts": TEXTS})[0] == 200
    assert server.ask("/predict", {"texts": TEXTS, "model": "embedding"})[0] == 200
    assert not re.search(r'status="5\d\d"', server.ask("/metrics")[1])
    for link in left:
        link.close()
    assert not any("Traceback" in line for line in server.said)


def test_sigterm_answers_what_was_asked_and_leaves_no_process(runs: dict[str, Path]) -> None:
    with serving(runs["embedding"], "--device", "cpu", "--texts", "2000") as server:
        texts = [f"{word} of a long text " * 8 for word in map(str, range(1500))]
        with ThreadPoolExecutor(6) as pool:
            waiting = [pool.submit(server.ask, "/predict", {"texts": texts}) for _ in range(6)]
            while not re.search(r"requests_inside 6.0", server.ask("/metrics")[1]):
                assert not all(each.done() for each in waiting)
            assert server.end() == 0
            assert [each.result()[0] for each in waiting] == [200] * 6
        assert server.said[-1] == "served; nothing was left unanswered\n"
        with pytest.raises(OSError):  # noqa: PT011 - nobody listens
            socket.create_connection(("127.0.0.1", server.port), timeout=5)


def test_a_body_of_another_type_is_told(server: Serving) -> None:
    status, found, _ = server.ask("/predict", {"texts": ["a"]}, {"content-type": "text/plain"})
    assert (status, "with the header content-type: application/json" in found["error"]) == (422, True)


def test_a_signal_right_after_it_is_up_is_not_lost(runs: dict[str, Path]) -> None:
    for _ in range(3):
        with serving(runs["linear"]) as server:
            assert server.end() == 0


def test_trailers_of_a_refused_request_end_its_connection(runs: dict[str, Path]) -> None:
    with (
        serving(runs["linear"], LASTTOKEN_TOKEN="secret") as server,
        socket.create_connection(("127.0.0.1", server.port), timeout=30) as link,
    ):
        link.sendall(b"POST /predict HTTP/1.1\r\nhost: a\r\ntransfer-encoding: chunked\r\n\r\n")
        assert link.recv(1000).startswith(b"HTTP/1.1 401")
        with pytest.raises(OSError):  # noqa: PT011 - reset or broken pipe
            link.sendall(b"0\r\n" + b"a: bbbbbbbbbbbbbbbbbbbb\r\n" * 1_000_000)
        assert server.ask("/readyz")[0] == 200


def test_a_second_ctrl_c_ends_at_once(runs: dict[str, Path]) -> None:
    with serving(runs["probe"], "--device", "cpu", "--texts", "20000") as server:
        texts = {"texts": ["a text of some words " * 6] * 20000}
        with ThreadPoolExecutor(1) as pool:
            waiting = pool.submit(server.ask, "/predict", texts)
            while not re.search(r"requests_inside 1.0", server.ask("/metrics")[1]):
                assert not waiting.done()
            server.process.send_signal(signal.SIGINT)
            time.sleep(0.5)
            assert server.end(signal.SIGINT) == 130
            assert waiting.exception() is not None or waiting.result()[0] >= 500
        assert server.said[-1] == "ended at once, as a second Ctrl-C asked\n"


def test_ctrl_c_ends_it_too(runs: dict[str, Path]) -> None:
    with serving(runs["linear"]) as server:
        assert server.ask("/predict", {"texts": TEXTS})[0] == 200
        assert server.end(signal.SIGINT) == 0


def test_clients_cannot_make_it_write(runs: dict[str, Path]) -> None:
    """Neither nonsense nor time adds a line to the log of a server."""
    with serving(runs["linear"]) as server:
        for _ in range(50):
            with socket.create_connection(("127.0.0.1", server.port), timeout=30) as link:
                link.sendall(b"\x00\xff nonsense\r\n\r\n")
                link.recv(1000)
        time.sleep(2)  # a stage that has not ended is told after one
        assert server.end() == 0
        told = server.said[[" on http://" in line for line in server.said].index(True) + 1 :]
    assert [line.split(" ")[0] for line in told] == ["try:", "served;"]


def test_requests_are_answered_while_it_drains(runs: dict[str, Path]) -> None:
    """Whoever sends requests sees at /readyz that the server is leaving, before it takes no more."""
    with serving(runs["linear"], "--drain", "2") as server:
        assert server.ask("/readyz")[0] == 200
        server.process.send_signal(signal.SIGTERM)
        ends = time.monotonic() + 10
        while server.ask("/readyz")[0] == 200:
            assert time.monotonic() < ends
        assert server.ask("/predict", {"texts": TEXTS})[0] == 200
        assert server.ask("/healthz")[0] == 200
        assert server.process.wait(30) == 0


def test_a_token_is_asked_for(runs: dict[str, Path]) -> None:
    with serving(runs["linear"], "--host", "0.0.0.0", LASTTOKEN_TOKEN="secret") as server:
        assert server.ask("/predict", {"texts": TEXTS})[0] == 401
        assert server.ask("/predict", {"texts": TEXTS}, {"authorization": "Bearer secret"})[0] == 200
        assert [server.ask(path)[0] for path in ("/readyz", "/", "/metrics")] == [200, 200, 401]
        status, found, _ = server.ask("/explain", {"text": "a"}, {"authorization": "Bearer secret"})
        assert (status, found["error"]) == (403, "this server does not explain; start it with --explain")


def test_a_flood_is_refused_and_passes(runs: dict[str, Path]) -> None:
    with serving(runs["embedding"], "--device", "cpu", "--requests", "4") as server:
        texts = {"texts": ["a text of some words " * 20] * 50}
        with ThreadPoolExecutor(32) as pool:
            found = list(pool.map(lambda _: server.ask("/predict", texts), range(64)))
        statuses = [status for status, _, _ in found]
        assert set(statuses) == {200, 429}
        assert statuses.count(429) > 20
        refused = next(each for each in found if each[0] == 429)
        assert refused[2]["retry-after"] == "1"
        assert refused[1]["error"] == "4 requests are being answered, the most at a time; try again"
        assert server.ask("/predict", texts)[0] == 200


def test_an_answer_that_takes_too_long(runs: dict[str, Path]) -> None:
    with serving(runs["embedding"], "--device", "cpu", "--timeout", "0.1", "--texts", "2000") as server:
        status, found, head = server.ask("/predict", {"texts": ["a text of some words " * 20] * 1000})
        assert (status, found["error"], head["retry-after"]) == (504, "no answer within 0.1 s", "1")


# The command line


def test_what_cannot_be_served_is_told_before_anything_is_loaded(
    refused: Callable[..., str], runs: dict[str, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("LASTTOKEN_TOKEN", raising=False)
    run = runs["linear"]
    assert refused("serve", run, "--host", "0.0.0.0") == (
        "--host 0.0.0.0: others can reach it; set LASTTOKEN_TOKEN to a secret that clients send, or give --no-token"
    )
    assert refused("serve", run, run) == f"linear: two runs have this name; give one another: NAME={run}"
    assert "no such run" in refused("serve", run.with_name("liner"))
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        assert refused("serve", run, "--port", port) == (
            f"127.0.0.1:{port}: something listens there already; name another with --port, or 0 for any free one"
        )


def test_a_missing_extra_is_named(
    refused: Callable[..., str], runs: dict[str, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    import importlib.util

    real = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None if name == "fastapi" else real(name))
    assert refused("serve", runs["linear"]) == "serve needs fastapi: pip install 'lasttoken[serve]'"


# The page


CLICKS = """
const wait = ms => new Promise(done => setTimeout(done, ms));
const until = async found => { for (let i = 0; i < 100 && !found(); i++) await wait(50); };
(async () => {
  await until(() => document.getElementById("model").options.length);
  document.getElementById("texts").value = "Return an array\\n\\nOpen a 😀 file of lines";
  document.getElementById("form").requestSubmit();
  await until(() => document.querySelectorAll("article").length === 2);
  document.querySelectorAll("article")[1].querySelector(".foot button").click();
  await until(() => document.querySelector("mark"));
  parent.postMessage("wide " + document.documentElement.scrollWidth + " of " + innerWidth, "*");
})();
"""


@browser.needed
@pytest.mark.slow
def test_the_page_labels_and_marks_words(server: Serving, tmp_path: Path) -> None:
    with proxied(server.address, CLICKS) as address:
        page, console = visited(address + "/", tmp_path)
    assert console == ""
    assert re.findall(r"<strong[^>]*>(\w+)</strong>", page) == [
        each["label"]
        for each in server.ask("/predict", {"texts": ["Return an array", "Open a 😀 file of lines"]})[1]["answers"]
    ]
    assert re.findall(r"<mark[^>]*>([^<]+)</mark>", page) == ["Open", "a", "😀", "file", "of", "lines"]
    assert page.count('class="track"') == 8
    assert "2 texts in" in page


@browser.needed
@pytest.mark.slow
def test_the_page_fits_a_phone(server: Serving, tmp_path: Path) -> None:
    with proxied(server.address, CLICKS) as address:
        page, console = visited(address + "/phone", tmp_path, width=800)
    wide, window = map(int, re.findall(r'data-told="wide (\d+) of (\d+)"', page)[0])
    assert (wide <= window, console) == (True, "")


@browser.needed
@pytest.mark.slow
def test_a_link_can_hold_a_text_and_a_page_asks_nobody_else(server: Serving, tmp_path: Path) -> None:
    page, console = visited(server.address + "/#Return%20an%20array", tmp_path)  # under the page's own policy
    assert (page.count("<article>"), console) == (1, "")
    assert not re.search(r"""(src|href)=["']?http""", page)


@pytest.mark.slow
def test_no_request_that_the_schema_allows_or_forbids_breaks_it(server: Serving) -> None:
    import schemathesis
    from hypothesis import HealthCheck, Phase, given, settings

    schema = schemathesis.openapi.from_url(server.address + "/openapi.json")
    for operation in (each.ok() for each in schema.get_all_operations()):

        @given(case=operation.as_strategy())
        @settings(
            max_examples=40,
            deadline=None,
            database=None,
            phases=[Phase.generate],
            suppress_health_check=list(HealthCheck),
        )
        def asked(case: Any) -> None:
            answer = case.call()
            assert answer.status_code < 500, (case, answer.content)

        asked()
    assert server.ask("/predict", {"texts": TEXTS})[0] == 200
