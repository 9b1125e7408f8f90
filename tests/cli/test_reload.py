"""``websuckets run --reload``: changes of the source are served by a new process."""

import os
import re
import signal
import sys
from pathlib import Path

import anyio
import pytest
from harness import connect
from run_command import (
    LONG,
    LOOPS,
    PROGRAM,
    RunningProgram,
    ask,
    client,
    close_code,
    descriptors_of,
    memory_of,
    run,
    tasks_of,
    until_file,
    until_gone,
)
from websockets.exceptions import ConnectionClosed

pytestmark = [
    pytest.mark.anyio,
    pytest.mark.on_asyncio,  # as the client; servers run on both
    pytest.mark.skipif(not sys.platform.startswith("linux"), reason="it reads /proc"),
]

heavy = pytest.mark.heavy
"""A mark for all but the first tests: each of them starts several processes."""

FOREVER = "import time\nopen('hangs', 'w').close()\ntime.sleep(1000)\n"
"""Source that never ends."""


def version(number: int, after: str = "") -> str:
    """Return a program whose command ``version`` returns the number, and that ends with ``after``.

    Its handler of ``die`` ends the process, and that of ``late`` imports the module `late`.
    """
    commands = f"""
@group.command("version")
async def version(socket: Socket) -> int:
    return {number}

@group.command("die")
async def die(socket: Socket) -> None:
    os._exit(3)

@group.command("late")
async def late(socket: Socket) -> int:
    import late
    return late.VALUE

app ="""
    return PROGRAM.replace("\napp =", commands) + after


def failing_startup(number: int) -> str:
    return version(
        number,
        '\n@app.on_startup\nasync def open_database() -> None:\n    raise OSError("no disk")\n',
    )


def waiting_startup(number: int, file: str) -> str:
    """Return a version whose start waits for a file."""
    return version(
        number,
        "\n@app.on_startup\nasync def wait() -> None:\n    open('starts', 'w').close()\n"
        f"    while not os.path.exists({file!r}):\n        await anyio.sleep(0.01)\n",
    )


def change(program: RunningProgram, text: str, name: str = "main.py") -> None:
    """Replace a file at once, as editors do, so that nobody reads a part of the file."""
    new = program.directory / f"{name}.new"
    new.write_text(text)
    new.replace(program.directory / name)


async def version_of(url: str) -> int:
    async with connect(url, open_timeout=LONG) as connection:
        number: int = await ask(connection, "version")
        return number


async def until_started(program: RunningProgram, times: int) -> str:
    """Wait until the app has started so many times, and return the URL."""
    return (await program.until(r"listening on (\S+),", times))[-1]


@pytest.mark.slow
async def test_a_change_is_served_and_clients_are_told_to_connect_again(tmp_path: Path) -> None:
    async with run(tmp_path, "--reload", program=version(1)) as program:
        url = await until_started(program, 1)
        async with client(url) as connection:
            assert await ask(connection, "version") == 1
            change(program, version(2))
            assert await close_code(connection) == 1012
        assert await version_of(url) == 2  # at once: the connection waits for the new version
        assert await until_started(program, 2) == url
        assert "changed: main.py" in program.log
        (worker,) = await program.until_children(1)
        program.signal(signal.SIGTERM)
        assert await program.ended() == 0
        await until_gone(worker)
        assert "ERROR" not in program.log


@pytest.mark.heavy
async def test_the_version_before_a_syntax_error_goes_on_until_the_error_is_repaired(
    tmp_path: Path,
) -> None:
    async with run(tmp_path, "--reload", program=version(1)) as program:
        url = await until_started(program, 1)
        async with client(url) as connection:
            change(program, "app = (\n")
            await program.until("the app cannot be loaded: the one before goes on")
            assert "app = (\n          ^\nSyntaxError: '(' was never closed" in program.log
            assert await ask(connection, "version") == 1
            change(program, version(3))
            assert await close_code(connection) == 1012
        assert await version_of(url) == 3


@heavy
@LOOPS
async def test_each_event_loop_serves_changes_and_ends_by_a_signal(
    tmp_path: Path, loop: tuple[str, str]
) -> None:
    async with run(tmp_path, "--reload", *loop, program=version(1)) as program:
        url = await until_started(program, 1)
        for number in (2, 3):
            async with client(url) as connection:
                assert await ask(connection, "version") == number - 1
                change(program, version(number))
                assert await close_code(connection) == 1012
            assert await version_of(url) == number
        (worker,) = await program.until_children(1)
        program.signal(signal.SIGTERM)
        assert await program.ended() == 0
        await until_gone(worker)
        assert "ERROR" not in program.log


@heavy
@LOOPS
async def test_clients_that_connect_while_the_app_restarts_wait(
    tmp_path: Path, loop: tuple[str, str]
) -> None:
    async with run(tmp_path, "--reload", *loop, program=version(1)) as program:
        url = await until_started(program, 1)
        numbers: list[int] = []

        async def visit() -> None:
            numbers.append(await version_of(url))

        change(program, waiting_startup(2, "open"))
        await until_file(tmp_path / "starts")  # so nobody accepts clients
        async with anyio.create_task_group() as tasks:
            for _ in range(20):
                tasks.start_soon(visit)
            await anyio.sleep(0.2)  # some would be refused, if any
            assert numbers == []
            (tmp_path / "open").touch()
        assert numbers == [2] * 20


@heavy
@LOOPS
async def test_no_client_is_refused_while_the_source_changes(
    tmp_path: Path, loop: tuple[str, str]
) -> None:
    async with run(tmp_path, "--reload", *loop, program=version(0)) as program:
        url = await until_started(program, 1)
        last = 5

        async def visit() -> None:
            numbers: list[int] = []
            while numbers[-1:] != [last]:
                async with connect(url, open_timeout=LONG) as connection:
                    try:
                        numbers.append(await ask(connection, "version"))
                    except ConnectionClosed as closed:
                        assert closed.rcvd is not None
                        assert closed.rcvd.code == 1012
            assert numbers == sorted(numbers)

        async with anyio.create_task_group() as tasks:
            for _ in range(5):
                tasks.start_soon(visit)
            for number in range(1, last + 1):
                change(program, version(number))
                await until_started(program, number + 1)


@heavy
async def test_the_last_of_several_changes_is_served(tmp_path: Path) -> None:
    async with run(tmp_path, "--reload", program=version(0)) as program:
        url = await until_started(program, 1)
        for number in range(1, 8):
            (tmp_path / "main.py").write_text(version(number))  # in place, as other editors do
            await anyio.sleep(0.15)
        with anyio.fail_after(LONG):
            while await version_of(url) != 7:
                await anyio.sleep(0.05)
        await program.until_children(1)


@heavy
async def test_templates_and_included_files_reload_and_other_files_do_not(tmp_path: Path) -> None:
    options = ("--reload", "--reload-include", "*.toml", "--reload-include", "words/*.txt")
    for folder in ("words", "pages", ".git", "node_modules"):
        (tmp_path / folder).mkdir()
    async with run(tmp_path, *options, program=version(1)) as program:
        await until_started(program, 1)
        for name in ("other.py", "notes.txt", ".git/page.html", "node_modules/page.html"):
            change(program, "nothing", name)
        change(program, "<p>", "pages/page.html")
        await program.until("changed: pages/page.html")
        await until_started(program, 2)
        change(program, "a = 1", "settings.toml")
        await program.until(r"changed: settings\.toml")
        await until_started(program, 3)
        change(program, "hello", "words/greeting.txt")
        await program.until(r"changed: words/greeting\.txt")
        await until_started(program, 4)
        assert "ERROR" not in program.log
    assert not any(f"{name}\n" in program.log for name in ("other.py", "notes.txt"))
    assert ".git" not in program.log
    assert "node_modules" not in program.log


@heavy
async def test_a_program_within_a_folder_that_is_left_out_reloads(tmp_path: Path) -> None:
    directory = tmp_path / ".venv" / "program"
    directory.mkdir(parents=True)
    async with run(directory, "--reload", program=version(1)) as program:
        url = await until_started(program, 1)
        change(program, version(2))
        await until_started(program, 2)
        assert await version_of(url) == 2


@heavy
async def test_a_module_that_a_handler_imports_is_watched(tmp_path: Path) -> None:
    elsewhere = tmp_path / "elsewhere"
    directory = tmp_path / "program"
    elsewhere.mkdir()
    directory.mkdir()
    (elsewhere / "late.py").write_text("from later import VALUE\n")
    (directory / "later.py").write_text("VALUE = 0\n")
    async with run(
        directory, "--reload", program=version(1), PYTHONPATH=f"{elsewhere}:{os.getcwd()}"
    ) as program:
        url = await until_started(program, 1)
        for times, file in enumerate((directory / "later.py", elsewhere / "late.py"), 2):
            async with client(url) as connection:
                assert await ask(connection, "late") == times - 2
                with anyio.fail_after(LONG):
                    while not re.search(rf"changed: .*{file.name}", program.log):
                        file.write_text(f"VALUE = {times - 1}\n")
                        await anyio.sleep(0.1)
                assert await close_code(connection) == 1012
            await until_started(program, times)
        async with client(url) as connection:
            assert await ask(connection, "late") == 2


@heavy
async def test_a_module_that_is_removed_is_reported_until_it_is_back(tmp_path: Path) -> None:
    (tmp_path / "part.py").write_text("")
    source = "import part\n" + version(1)
    async with run(tmp_path, "--reload", program=source) as program:
        url = await until_started(program, 1)
        (tmp_path / "part.py").unlink()
        await program.until("the app cannot be loaded: the one before goes on")
        assert "ModuleNotFoundError: No module named 'part'" in program.log
        assert await version_of(url) == 1
        change(program, "", "part.py")
        await until_started(program, 2)


@heavy
async def test_a_new_module_with_an_error_is_watched_though_it_was_never_imported(
    tmp_path: Path,
) -> None:
    async with run(tmp_path, "--reload", program=version(1)) as program:
        url = await until_started(program, 1)
        change(program, "1 / 0\n", "part.py")
        change(program, "import part\n" + version(2))
        await program.until("the app cannot be loaded: the one before goes on")
        change(program, "VALUE = 1\n", "late.py")
        async with client(url) as connection:  # it imports a module after the failure
            assert await ask(connection, "late") == 1
            await anyio.sleep(1.5)  # beyond the heartbeat that tells the reloader of that module
            change(program, "", "part.py")
            assert await close_code(connection) == 1012
        assert await version_of(url) == 2


@heavy
async def test_an_app_that_fails_to_start_is_started_again_after_a_change(tmp_path: Path) -> None:
    async with run(tmp_path, "--reload", program=failing_startup(0)) as program:
        await program.until("the app cannot start: waiting for a change")
        change(program, version(1))
        url = await until_started(program, 1)
        async with client(url) as connection:
            change(program, failing_startup(2))
            assert await close_code(connection) == 1012
        await program.until("the app cannot start: waiting for a change", times=2)
        assert program.log.count("OSError: no disk") == 2
        assert await program.until_children(0) == set()
        async with anyio.create_task_group() as tasks:  # a client waits for the repair
            tasks.start_soon(version_of, url)
            change(program, version(3))
        assert await version_of(url) == 3


@heavy
async def test_a_process_that_dies_is_started_again_after_a_change(tmp_path: Path) -> None:
    async with run(tmp_path, "--reload", program=version(1)) as program:
        url = await until_started(program, 1)
        (worker,) = program.children()
        async with client(url) as connection:
            await connection.send('{"event": "die"}')
            await program.until(
                rf"process {worker} has ended \(exit status 3\): waiting for a change"
            )
        change(program, version(2))
        assert await version_of(url) == 2


@heavy
@pytest.mark.parametrize("hanging", [FOREVER, waiting_startup(2, "never")], ids=["import", "start"])
async def test_a_change_is_served_though_the_one_before_never_starts(
    tmp_path: Path, hanging: str
) -> None:
    async with run(tmp_path, "--reload", program=version(1)) as program:
        await until_started(program, 1)
        change(program, hanging)
        with anyio.fail_after(LONG):
            while not any((tmp_path / name).exists() for name in ("hangs", "starts")):
                await anyio.sleep(0.01)
        change(program, version(3))
        url = await until_started(program, 2)
        assert await version_of(url) == 3
        await program.until_children(1)


@heavy
@pytest.mark.parametrize("command", ["wait", "block"])
async def test_a_command_that_never_ends_does_not_hold_up_a_change(
    tmp_path: Path, command: str
) -> None:
    async with run(tmp_path, "--reload", program=version(1)) as program:
        url = await until_started(program, 1)
        async with client(url) as connection:
            await ask(connection, "version")
            await connection.send(f'{{"event": "{command}", "payload": 1000, "id": 2}}')
            change(program, version(2))
            assert await close_code(connection) is None
        assert await version_of(url) == 2


@heavy
@pytest.mark.parametrize("by_terminal", [False, True], ids=["one", "all"])
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
@pytest.mark.parametrize("source", [FOREVER, version(1)], ids=["importing", "serving"])
async def test_a_signal_ends_both_processes_without_an_error(
    tmp_path: Path, source: str, number: signal.Signals, by_terminal: bool
) -> None:
    """Expect it also where a terminal sends the signal to all processes."""
    async with run(tmp_path, "--reload", program=source) as program:
        if source is FOREVER:
            await until_file(tmp_path / "hangs")
        else:
            await until_started(program, 1)
        (worker,) = program.children()
        program.signal(number)
        if by_terminal:
            os.kill(worker, number)
        assert await program.ended() == 0
        await until_gone(worker)
        assert "ERROR" not in program.log
        assert "Traceback" not in program.log


ENDS = """
import atexit

@atexit.register
def wait() -> None:
    open("ends", "w").close()
    while not os.path.exists("go"):
        time.sleep(0.01)
"""
"""Source whose process waits for a file once the app has stopped."""


@heavy
@LOOPS
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
async def test_a_signal_to_a_process_whose_app_has_stopped_is_no_error(
    tmp_path: Path, loop: tuple[str, str], number: signal.Signals
) -> None:
    """Expect it where the process was told to stop before the reloader was, or by both."""
    async with run(tmp_path, "--reload", *loop, program=version(1, ENDS)) as program:
        await until_started(program, 1)
        (worker,) = program.children()
        os.kill(worker, number)
        await until_file(tmp_path / "ends")
        program.signal(number)
        os.kill(worker, number)
        await program.until(r"\[\d+\] INFO websuckets: stopping\n(?s:.*)stopping")
        (tmp_path / "go").touch()
        assert await program.ended() == 0
        assert "ERROR" not in program.log


@heavy
@pytest.mark.parametrize("source", [FOREVER, version(1)], ids=["importing", "serving"])
async def test_a_reloader_that_is_killed_leaves_nothing_behind(tmp_path: Path, source: str) -> None:
    async with run(tmp_path, "--reload", program=source) as program:
        if source is FOREVER:
            await until_file(tmp_path / "hangs")
        else:
            await until_started(program, 1)
        (worker,) = program.children()
        program.signal(signal.SIGKILL)
        await until_gone(worker)


@heavy
@pytest.mark.timeout(300)
async def test_fifty_changes_leave_nothing_behind(tmp_path: Path) -> None:
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    (elsewhere / "late.py").write_text("VALUE = 1\n")
    source = "import late\n"
    async with run(
        tmp_path,
        *("--reload", "--app-dir", str(tmp_path)),
        program=source + version(0),
        PYTHONPATH=f"{elsewhere}:{os.getcwd()}",
    ) as program:
        url = await until_started(program, 1)
        for number in range(1, 51):
            change(program, source + version(number))
            assert await until_started(program, number + 1) == url
            (worker,) = await program.until_children(1)
            if number == 10:
                tasks, memory = tasks_of(program.pid), memory_of(program.pid)
                descriptors = descriptors_of(program.pid)
                of_worker = descriptors_of(worker)
        assert await version_of(url) == 50
        assert tasks_of(program.pid) <= tasks
        assert descriptors_of(program.pid) == descriptors
        assert descriptors_of(worker) <= of_worker + 1  # of the client above
        assert memory_of(program.pid) < memory + 8 * 2**20
        program.signal(signal.SIGTERM)
        assert await program.ended() == 0
        with pytest.raises(OSError):
            await version_of(url)
