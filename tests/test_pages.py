"""What surrounds the admin's pages: headers, static files, cookies, hosts, a database that fails."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path
from urllib.parse import urlencode

import pytest

from proxy.pages import POLICY
from tests.admin_site import PASSWORD, Site, running_site
from tests.clients import Response, request
from tests.servers import ALONE, Servers

pytestmark = pytest.mark.usefixtures("clean_logs")

SCRIPT = "/static/proxy/dashboard.js"


@pytest.fixture(scope="module")
async def site(servers: Servers, tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Site]:
    async with running_site(servers, tmp_path_factory.mktemp("pages")) as site:
        yield site


def test_no_script_may_stand_in_a_page() -> None:
    assert "unsafe" not in POLICY
    assert POLICY.startswith("default-src 'none'; ")


async def test_security_headers(site: Site) -> None:
    here, elsewhere = ("Host", "localhost"), ("Host", "evil.example")
    for path, host, status in (
        ("/admin/login/", here, 200),
        ("/admin/", here, 302),
        ("/nowhere/", here, 404),
        ("/admin/", elsewhere, 400),
    ):
        response = await request(site.server, "GET", path, [host])
        assert response.status == status
        assert response.one("Content-Security-Policy") == POLICY
        assert response.one("X-Frame-Options") == "DENY"
        assert response.one("X-Content-Type-Options") == "nosniff"
        assert response.one("Referrer-Policy") == "same-origin"
        assert response.one("Cross-Origin-Opener-Policy") == "same-origin"
    static = await request(site.server, "GET", SCRIPT)
    assert static.one("X-Content-Type-Options") == "nosniff"


async def test_cookies_are_the_admins_only(site: Site) -> None:
    """Browsers don't send them to /connect, whose headers go to the backend."""
    (cookie,) = (await request(site.server, "GET", "/admin/login/")).all("Set-Cookie")
    assert cookie.startswith("kuiperbelt_csrf=")
    assert "Path=/admin/;" in cookie


@pytest.mark.parametrize("kind", ALONE)
async def test_static_files(servers: Servers, kind: str) -> None:
    server = await servers.get(kind)
    whole = await request(server, "GET", SCRIPT)
    assert (whole.status, whole.one("Content-Type")) == (200, 'text/javascript; charset="utf-8"')
    assert whole.body.startswith(b"// The dashboard")
    assert (await request(server, "HEAD", SCRIPT)).body == b""
    part = await request(server, "GET", SCRIPT, [("Range", "bytes=3-5")])
    assert (part.status, part.body) == (206, b"The")
    etag = whole.one("ETag")
    assert etag
    assert (await request(server, "GET", SCRIPT, [("If-None-Match", etag)])).status == 304
    assert (await request(server, "POST", SCRIPT)).status == 405
    for path in ("/static/proxy/../../settings.py", "/static/nothing.js", "/static/"):
        assert (await request(server, "GET", path)).status == 404


async def test_hosts(site: Site, servers: Servers) -> None:
    """Only names that are meant; the proxy's own paths take any."""
    for host, status in (("localhost", 200), ("evil.example", 400), ("[::1]:80", 200), ("a b", 400)):
        assert (await request(site.server, "GET", "/admin/login/", [("Host", host)])).status == status
        assert (await request(site.server, "GET", "/ping", [("Host", host)])).status in (200, status)
    answer = await request(site.server, "GET", "/admin/", [("Host", "evil.example")])
    assert b"have EKBO_ADMIN_ORIGINS name" in answer.body


async def test_behind_tls(servers: Servers, tmp_path: Path) -> None:
    """nginx has the certificate: the admin's forms come from https, although it sees plain HTTP."""
    async with running_site(servers, tmp_path, EKBO_ADMIN_ORIGINS="https://ops.example.com") as site:
        host = ("Host", "ops.example.com")
        page = await request(site.server, "GET", "/admin/login/", [host])
        assert page.status == 200
        (cookie,) = page.all("Set-Cookie")
        assert "; Secure" in cookie
        token = page.body.partition(b'name="csrfmiddlewaretoken" value="')[2].partition(b'"')[0]
        headers = [host, ("Cookie", cookie.partition(";")[0]), ("Content-Type", "application/x-www-form-urlencoded")]
        form = b"username=ada&password=wrong&csrfmiddlewaretoken=" + token
        for origin, status in (("https://ops.example.com", 200), ("https://evil.example", 403)):
            answer = await request(site.server, "POST", "/admin/login/", [*headers, ("Origin", origin)], form)
            assert answer.status == status
            assert (b"have EKBO_ADMIN_ORIGINS name" in answer.body) == (status == 403)


async def test_an_id_that_is_none(site: Site) -> None:
    """Of a form that no page of ours sends: 400, no traceback."""
    page = await request(site.server, "GET", "/admin/login/")
    cookies = {"kuiperbelt_csrf": page.all("Set-Cookie")[0]}
    headers = [("Content-Type", "application/x-www-form-urlencoded")]

    async def post(path: str, **fields: str) -> Response:
        token = cookies["kuiperbelt_csrf"].partition(";")[0].partition("=")[2]
        body = urlencode(fields | {"csrfmiddlewaretoken": token}).encode()
        cookie = "; ".join(value.partition(";")[0] for value in cookies.values())
        return await request(site.server, "POST", path, [*headers, ("Cookie", cookie)], body)

    answer = await post("/admin/login/?next=/admin/", username="ada", password=PASSWORD)
    assert answer.status == 302
    cookies |= {value.partition("=")[0]: value for value in answer.all("Set-Cookie")}
    answer = await post("/admin/proxy/session/", action="close", _selected_action="x")
    assert (answer.status, answer.body) == (400, "“x” is not a valid UUID.".encode())


@pytest.mark.parametrize("kind", ALONE)
async def test_a_database_that_was_never_migrated(servers: Servers, tmp_path: Path, kind: str) -> None:
    """A plain answer that says what to do, no traceback, and the proxy's own paths as ever."""
    server = await servers.start(kind, {"EKBO_DATABASE_URL": "postgres://nobody@127.0.0.1:9/nothing"})
    answer = await request(server, "GET", "/admin/", [("Cookie", "kuiperbelt_session=" + "x" * 32)])
    assert answer.status == 503
    assert b"manage.py migrate" in answer.body
    assert (await request(server, "GET", "/admin/login/")).status == 200
    assert (await request(server, "GET", "/ping")).status == 200
    assert (await request(server, "GET", SCRIPT)).status == 200
