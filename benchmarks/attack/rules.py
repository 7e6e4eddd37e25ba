"""Attacks on rules: what a key may do, whose pages may ask, what goes into the log, whose fault a full disk is."""

from __future__ import annotations

import os
import re
import shlex
import subprocess
import tempfile
import time
import uuid
from pathlib import Path

from benchmarks.attack.building import counted
from benchmarks.attack.gateway import HOST, Gateway, Outcome, attack
from benchmarks.attack.holding import sampled_code
from benchmarks.attack.pictures import small_picture
from benchmarks.attack.wire import Refused, Session, ask, connected, form, request_head

_JSON = {"content-type": "application/json"}
_TRACEBACK = "Traceback (most recent call last)"
# How soon the log has what was asked just now.
_LOG_S = 3.0


@attack(4, "the log's pipe is not read", log_pipe=True)
def unread_log(gateway: Gateway) -> Outcome:
    """Nobody reads the pipe of the log any more; then 1,000 requests, one after another, with pauses of 5 ms. A good
    gateway answers all, and ends at SIGTERM, with the pipe still full."""
    gateway.stop_reading_log()
    answered, end_s = 0, time.monotonic() + 25.0
    while answered < 1000 and time.monotonic() < end_s:
        if ask(gateway, "GET", "/v1/bundles", timeout_s=5.0).status != 200:
            return Outcome(f"no answer after {answered} requests", False)
        answered += 1
        time.sleep(0.005)
    return Outcome(f"{answered} requests answered", True)


@attack(10, "edits over a websocket with a key for one a second", keyed=True, harmless=True)
def over_the_rate(gateway: Gateway) -> Outcome:
    """Edits for 4 s as fast as it can, with a key for one request a second, and opens the session again whenever it
    ends. A good gateway charges each edit: the bar is 4, one in store and three more."""
    code = sampled_code(gateway)
    edited, session, end_s = 0, None, time.monotonic() + 4.0
    while time.monotonic() < end_s:
        try:
            if session is None:
                session = Session(gateway, gateway.bearer("limited"))
            served = "edited" in session.edit(code=code)
            edited += served
        except (Refused, OSError):
            served, session = False, None
        if not served:
            time.sleep(0.05)
    if session is not None:
        session.close()
    return Outcome(f"{edited} edits in 4 s", edited <= 8)


@attack(11, "a key taken out while its session is open", keyed=True, harmless=True)
def taken_out(gateway: Gateway) -> Outcome:
    """Opens a session, takes its key out of the file of keys, and goes on to edit. A good gateway ends the session, or
    refuses its edits, within 5 s."""
    code = sampled_code(gateway)
    session = Session(gateway, gateway.bearer("leaving"))
    gateway.hold(session)
    session.edit(code=code)
    gateway.take_out_key("leaving")
    begun_s = time.monotonic()
    try:
        while (passed_s := time.monotonic() - begun_s) < 8.0:
            answer = session.edit(code=code)
            if "edited" not in answer:
                reason = answer.get("error", answer).get("reason", "")
                return Outcome(f"{reason} after {passed_s:.1f} s", passed_s <= 5.0)
            time.sleep(0.1)
    except OSError:
        return Outcome(f"closed after {passed_s:.1f} s", passed_s <= 5.0)
    return Outcome("still edits after 8 s", False)


@attack(14, "Host and Origin of a stranger's name (DNS rebinding)", harmless=True)
def rebinding(gateway: Gateway) -> Outcome:
    """Asks as a page does whose name leads to this machine by now: Host alone (a GET of the page's own origin has no
    Origin), Host and Origin, a websocket. A good gateway without keys knows only loopback's names, and those it serves.
    """
    stranger = f"attacker.example:{gateway.http_port}"
    both = {"host": stranger, "origin": f"http://{stranger}"}
    statuses: list[object] = [
        ask(gateway, "GET", "/v1/bundles", headers={"host": stranger}).status,
        ask(gateway, "POST", "/v1/sample", b'{"seeds":[1]}', _JSON | both).status,
    ]
    try:
        Session(gateway, both).close()
        statuses.append(101)
    except Refused as error:
        statuses.append(int(str(error)) if str(error).isdigit() else str(error))
    own = [
        ask(gateway, "GET", "/v1/bundles", headers={"host": f"{name}:{gateway.http_port}"}).status
        for name in ("localhost", HOST, "[::1]")
    ]
    refused = all(isinstance(status, int) and 400 <= status < 500 for status in statuses)
    return Outcome(f"{counted(statuses)}; loopback's names: {counted(own)}", refused and set(own) == {200})


@attack(15, "an Origin that is none: http://[", keyed=True, harmless=True)
def bad_origins(gateway: Gateway) -> Outcome:
    """Asks for several paths with Origins that cannot be parsed. A good gateway answers with a 4xx, without a traceback
    in its log."""
    tracebacks = gateway.log().count(_TRACEBACK)
    statuses = [
        ask(gateway, "GET", path, headers={"origin": origin} | gateway.bearer("other")).status
        for path in ("/", "/healthz", "/v1/bundles", "/metrics", "/nowhere")
        for origin in ("http://[", "http://[::1", "http://]:80[")
    ]
    time.sleep(0.5)
    tracebacks = gateway.log().count(_TRACEBACK) - tracebacks
    refused = all(400 <= status < 500 for status in statuses)
    return Outcome(f"{counted(statuses)}, {tracebacks} tracebacks", refused and not tracebacks)


@attack(17, "/v1/find-faces, and bad keys there and on /metrics", keyed=True, harmless=True)
def unlogged(gateway: Gateway) -> Outcome:
    """Looks for faces with a key, and asks there and for /metrics with a bad one. A good gateway logs each of them,
    with the request id that it came with."""
    bad = {"authorization": "Bearer indomain_nobody"}
    body, headers = form(small_picture(), {})
    requests = {
        "find-faces": ("POST", "/v1/find-faces", body, headers | gateway.bearer("other")),
        "find-faces with a bad key": ("POST", "/v1/find-faces", body, headers | bad),
        "metrics with a bad key": ("GET", "/metrics", b"", bad),
    }
    ids = {name: uuid.uuid4().hex for name in requests}
    for name, (method, path, content, given) in requests.items():
        ask(gateway, method, path, content, given | {"x-request-id": ids[name]})
    end_s = time.monotonic() + _LOG_S
    missing = set(requests)
    while missing and time.monotonic() < end_s:
        log = gateway.log()
        missing = {name for name in missing if ids[name] not in log}
        time.sleep(0.1)
    told = f"no line of {', '.join(sorted(missing))}" if missing else "a line of each"
    return Outcome(told, not missing)


@attack(18, "malformed chunks, without a key", keyed=True, harmless=True)
def bad_chunks(gateway: Gateway) -> Outcome:
    """Sends bodies of chunks that cannot be read, 20 of each kind. A good gateway cuts, and logs a line at most."""
    tracebacks, size = gateway.log().count(_TRACEBACK), len(gateway.log())
    head = request_head("/v1/decode", _JSON | {"transfer-encoding": "chunked"})
    kinds = (b"zz\r\n", b"-1\r\n{}\r\n", b"2\r\n{}no end", b"f" * 40 + b"\r\n", b"\0\r\n")
    for chunk in kinds * 20:
        try:
            with connected(gateway.http_port, timeout_s=2.0) as connection:
                connection.sendall(head + chunk)
                connection.recv(4096)
        except OSError:
            continue
    time.sleep(0.5)
    # what innocents did meanwhile is in the log, too
    lines = [line for line in gateway.log()[size:].splitlines() if '"method": "Edit"' not in line]
    tracebacks = gateway.log().count(_TRACEBACK) - tracebacks
    each = sum(map(len, lines)) // (20 * len(kinds))
    return Outcome(f"{tracebacks} tracebacks, {each} bytes of log for each", not tracebacks and each <= 1000)


_ON_A_SMALL_DISK = """
mount -t tmpfs -o size=1m tmpfs "$OUT" || exit 77
head -c 970000 /dev/zero > "$OUT/ballast"
"$@" > "$TOLD/first" 2>&1; echo $? > "$TOLD/first.status"
rm "$OUT/ballast"
"$@" > "$TOLD/second" 2>&1; echo $? > "$TOLD/second.status"
ls "$OUT" > "$TOLD/results"
"""


@attack(19, "a full disk under `indomain invert FOLDER`", keyed=True, harmless=True)
def full_disk(gateway: Gateway) -> Outcome:
    """Runs the command line with a folder of six pictures onto a disk of 1 MB that is nearly full, makes room, and runs
    the same command again. A good command line blames the disk, marks no picture as failed, and goes on afterwards."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        pictures, out = folder / "pictures", folder / "out"
        pictures.mkdir()
        out.mkdir()
        for number in range(6):
            (pictures / f"{number}.png").write_bytes(small_picture())
        client = [*shlex.split(gateway.programs.client), "invert", str(pictures), "-o", str(out)]
        client += ["--server", f"{HOST}:{gateway.grpc_port}", "--steps", "0", "--jobs", "1", "--wait", "2"]
        client += ["--align", "centre-crop"]
        key = gateway.bearer("other").get("authorization", "").removeprefix("Bearer ")
        environment = os.environ | {"OUT": str(out), "TOLD": str(folder), "INDOMAIN_API_KEY": key}
        command = ["unshare", "--map-root-user", "--mount", "sh", "-c", _ON_A_SMALL_DISK, "sh", *client]
        done = subprocess.run(
            command, env=environment, capture_output=True, text=True, timeout=90, check=False
        )
        if done.returncode:
            return Outcome(f"not run: no disk can be mounted here ({done.stderr.strip()[:80]})", False)
        told = {
            file: (folder / file).read_text()
            for file in ("first", "first.status", "second", "second.status", "results")
        }
    names_disk = re.compile(r"(?i)no space|disk")
    disk = names_disk.search(told["first"]) is not None
    # `.../pictures/2.png: 5120 requested and 2016 written`
    blames = [line for line in told["first"].splitlines() if re.search(r"/pictures/\d\.png: ", line)]
    sources = sum(not names_disk.search(line) for line in blames)
    done_at_last = sum(f"{number}.png" in told["results"].split() for number in range(6))
    went_on = told["second.status"].strip() == "0" and done_at_last == 6
    return Outcome(
        f"{'names' if disk else 'does not name'} the disk, blames {sources} sources; the same command again: "
        f"{done_at_last} of 6 done",
        disk and not sources and went_on and told["first.status"].strip() != "0",
    )
