# SPDX-License-Identifier: Apache-2.0
"""What belongs to an HTTP request besides its body: its path, headers that are forwarded, and those that a path may need."""

from __future__ import annotations

from typing import Any

import pytest

from penstock.ipc.errors import CallerError, not_found
from penstock.runtime.gateway.callers import Caller
from penstock.runtime.gateway.over_http.exchange import Call, Response, of_json
from penstock.runtime.gateway.over_http.restrictions import GROUPS, restrictions_of
from penstock.runtime.gateway.over_http.routes import Routes

NOBODY = Caller("test")


def routes(*restrictions: str) -> Routes:
    """One path, which answers with what its groups were."""
    made = Routes(restrictions_of(restrictions))

    async def names(_call: Call, **groups: Any) -> Response:
        if groups["model"] == "unknown":
            raise not_found("no such model")
        return of_json(groups)

    made.add("GET", r"/v2/models/(?P<model>[^/]+)(?:/versions/(?P<version>[^/]+))?/config", names)
    return made


def answer(made: Routes, path: str, method: str = "GET", **headers: str) -> tuple[int, str]:
    """Nothing here waits: the coroutine ends at its first step."""
    with pytest.raises(StopIteration) as ended:
        made.answer(Call(method, path, headers, b"", NOBODY)).send(None)
    response: Response = ended.value.value
    return response.status, b"".join(map(bytes, response.body)).decode()


@pytest.mark.parametrize(
    ("path", "model", "version"),
    [
        ("/v2/models/m/config", "m", "null"),
        ("/v2/models/m/versions/3/config", "m", '"3"'),
        ("/v2/models/a%20b/config", "a b", "null"),
        ("/v2/models/a%2Fconfig/config", "a/config", "null"),
    ],
)
def test_names_in_a_path_come_without_escapes(path: str, model: str, version: str) -> None:
    assert answer(routes(), path) == (200, f'{{"model":"{model}","version":{version}}}')


def test_other_paths_and_other_verbs_are_answered_as_triton_does() -> None:
    assert answer(routes(), "/v2/models//config") == (404, '{"error":"Not Found"}')
    for method in ("POST", "HEAD", "OPTIONS", "DELETE"):
        assert answer(routes(), "/v2/models/m/config", method) == (405, '{"error":"Method Not Allowed"}')


def test_an_error_is_json_with_its_status() -> None:
    assert answer(routes(), "/v2/models/unknown/config") == (404, '{"error":"no such model"}')


# --- restrictions -------------------------------------------------------------------------------------------------------------


def test_a_restricted_path_needs_its_header() -> None:
    # Given two groups that need a header each
    made = routes("model-repository,model-config:admin=secret", "trace:other=1")
    path, refused = "/v2/models/m/config", (403, '{"error":"This API is restricted, expecting header \'admin\'"}')
    # Then a path of one is answered to who brings its header, and to nobody else, whatever the verb
    assert answer(made, path, admin="secret")[0] == 200
    assert answer(made, path) == answer(made, path, admin="guess") == answer(made, path, other="1") == refused
    assert answer(made, path, "POST") == refused
    # And one that there is not is not there
    assert answer(made, "/v2/models/m/stats")[0] == 404


def test_a_path_of_no_restricted_group_is_open() -> None:
    assert answer(routes("statistics:admin=secret"), "/v2/models/m/config")[0] == 200


@pytest.mark.parametrize(
    ("group", "path"),
    [
        ("health", "/v2/health/live"),
        ("health", "/v2/models/m/versions/1/ready"),
        ("metadata", "/v2"),
        ("metadata", "/v2/models/m"),
        ("inference", "/v2/models/m/infer"),
        ("shared-memory", "/v2/systemsharedmemory/status"),
        ("shared-memory", "/v2/cudasharedmemory/region/r/register"),
        ("model-config", "/v2/models/m/config"),
        ("model-repository", "/v2/repository/index"),
        ("statistics", "/v2/models/stats"),
        ("statistics", "/v2/models/m/stats"),
        ("trace", "/v2/trace/setting"),
        ("trace", "/v2/models/m/trace/setting"),
        ("logging", "/v2/logging"),
    ],
)
def test_a_path_belongs_to_one_group(group: str, path: str) -> None:
    refusing = [
        name for name in GROUPS if restrictions_of([f"{name}:a=b"])[0].refusal(Call("GET", path, {}, b"", NOBODY)) is not None
    ]
    assert refusing == [group]


@pytest.mark.parametrize(
    ("flags", "said"),
    [
        (["nonsense:a=b"], "unknown restricted api 'nonsense'"),
        (["health:a=b", "trace,health:a=b"], "api 'health' can not be specified in multiple config groups"),
        (
            ["health"],
            "--http-restricted-api option format is '<API1>,<API2>,..:<restricted-key>=<restricted-value>'. Got health",
        ),
    ],
)
def test_restrictions_that_cannot_be_are_refused(flags: list[str], said: str) -> None:
    with pytest.raises(CallerError) as caught:
        restrictions_of(flags)
    assert caught.value.message == said
