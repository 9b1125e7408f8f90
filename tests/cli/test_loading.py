"""Tests of finding and importing the app that the command line names."""

import sys
from pathlib import Path

import pytest
from command_line import Project
from repository import ROOT

from websuckets import WebSuckets
from websuckets.cli.loading import LoadError, load

APP = """\
from websuckets import WebSuckets

app = WebSuckets()
"""


def refusal(target: str | None, *, factory: bool = False, app_dir: Path | None = None) -> str:
    """Return the text with which a target is refused."""
    with pytest.raises(LoadError) as caught:
        load(target, factory=factory, app_dir=app_dir)
    return str(caught.value)


# Targets ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("target", ["main", "main:app", None])
def test_an_app_is_the_object_of_its_module(project: Project, target: str | None) -> None:
    project.write(main=APP)
    assert load(target) is sys.modules["main"].app


def test_modules_and_attributes_may_be_dotted(project: Project) -> None:
    project.write(**{"desk/server": f"{APP}\nclass Parts:\n    second = WebSuckets()\n"})
    assert load("desk.server:Parts.second") is sys.modules["desk.server"].Parts.second
    assert load("desk.server") is sys.modules["desk.server"].app


def test_the_current_directory_comes_first(project: Project) -> None:
    project.write(main=APP, second=APP, **{"first/second": APP})
    load("main")
    assert sys.path[0] == str(project.directory)
    load("main")
    assert sys.path[0] != sys.path[1]
    load("second", app_dir=Path("first"))
    assert sys.path[0] == str(project.directory / "first")
    assert sys.modules["second"].__file__ == str(project.directory / "first" / "second.py")


def test_the_directory_of_an_app_has_to_exist(project: Project) -> None:
    missing = project.directory / "none"
    assert refusal("main", app_dir=Path("none")) == f"the directory {missing} does not exist"


@pytest.mark.parametrize("target", ["", ":app", "main:", "main:a b", "main:app:more", ".main"])
def test_a_target_that_names_nothing_is_told_its_form(project: Project, target: str) -> None:
    project.write(main=APP)
    assert refusal(target).startswith(f"`{target}` does not name an app; write module:attribute")


@pytest.mark.parametrize("target", ["desk/server.py", "./desk/server.py:app", r"desk\server:app"])
def test_a_file_is_told_the_name_of_its_module(project: Project, target: str) -> None:
    project.write(**{"desk/server": APP})
    assert refusal(target).endswith("names a file; write the module: desk.server:app")


# Modules that do not exist ----------------------------------------------------------------------


def test_a_missing_module_is_told_the_files_and_near_names(project: Project) -> None:
    project.write(server=APP, settings="", **{"desk/__init__": ""})
    assert refusal("sever:app") == (
        f"no module `sever`\n  {project.directory} has desk/, server.py, settings.py\n"
        "  did you mean `server`?"
    )


def test_a_missing_module_in_an_empty_directory(project: Project) -> None:
    assert refusal("main:app") == f"no module `main`\n  {project.directory} has no Python files"


def test_a_directory_with_many_files_is_listed_in_part(project: Project) -> None:
    project.write(**{f"part{number:02}": "" for number in range(20)})
    assert "part10.py, part11.py, and 8 more" in refusal("main:app")


def test_a_missing_submodule_is_told_its_neighbours(project: Project) -> None:
    project.write(**{"desk/__init__": "", "desk/server": APP})
    assert refusal("desk.sever:app") == (
        f"no module `desk.sever`\n  {project.directory / 'desk'} has server.py\n"
        "  did you mean `desk.server`?"
    )


def test_a_dot_in_the_place_of_the_colon_is_noticed(project: Project) -> None:
    project.write(main=APP)
    assert refusal("main.app") == (
        f"no module `main.app`: `main` is a module, {project.directory / 'main.py'}, "
        "without others\n  for an attribute of that module, write main:app"
    )


def test_a_module_in_a_directory_below_is_found(project: Project) -> None:
    project.write(**{"src/desk/__init__": "", "back/desk": ""})
    text = refusal("desk.server:app")
    assert f"{Path('back/desk.py')} exists: add --app-dir back" in text
    assert f"{Path('src/desk/__init__.py')} exists: add --app-dir src" in text


# Errors in the program --------------------------------------------------------------------------


def test_an_error_of_the_program_has_its_own_traceback(project: Project) -> None:
    project.write(main="import broken\n", broken="def fail():\n    1 / 0\n\n\nfail()\n")
    main, broken = project.directory / "main.py", project.directory / "broken.py"
    text = refusal("main:app")
    lines = [line for line in text.splitlines() if "~" not in line]  # marks, from 3.11 on
    assert lines == [
        "Traceback (most recent call last):",
        f'  File "{main}", line 1, in <module>',
        "    import broken",
        f'  File "{broken}", line 5, in <module>',
        "    fail()",
        f'  File "{broken}", line 2, in fail',
        "    1 / 0",
        "ZeroDivisionError: division by zero",
        "",
        "your program raised this error while `main` was imported",
    ]


def test_a_traceback_has_the_errors_that_led_to_it(project: Project) -> None:
    project.write(
        main="""\
        import importlib

        try:
            importlib.import_module("missing")
        except ImportError as error:
            raise ExceptionGroup("both", [error, ValueError("second")]) from KeyError("first")
        """
    )
    text = refusal("main:app")
    assert "KeyError: 'first'" in text and "ValueError: second" in text
    assert "importlib/__init__.py" not in text and "<frozen" not in text


def test_an_error_behind_our_code_has_no_frames_of_ours(project: Project) -> None:
    project.write(
        main="""\
        from websuckets import CommandGroup

        group = CommandGroup()


        @group.command("run")
        async def run(socket): ...
        """
    )
    text = refusal("main:app")
    assert "InvalidHandlerSignature: command 'run', `main.run`" in text
    assert str(ROOT / "websuckets") not in text
    assert text.count('File "') == 1


def test_a_folder_with_a_name_like_ours_is_the_program_s(tmp_path: Path, project: Project) -> None:
    project.write(**{"websuckets_demo/main": "1 / 0\n"})
    assert "websuckets_demo" in refusal("websuckets_demo.main:app").partition("Error")[0]


def test_a_syntax_error_tells_its_place_alone(project: Project) -> None:
    project.write(main="app = (\n")
    text = refusal("main:app")
    assert text.startswith(f'  File "{project.directory / "main.py"}", line 1\n    app = (\n')
    assert "SyntaxError: '(' was never closed\n\nyour program raised" in text


@pytest.mark.parametrize("missing", ["nothing", "main.part", "main"])
def test_a_module_that_is_missing_to_the_program_is_an_error_of_the_program(
    project: Project, missing: str
) -> None:
    project.write(main=f"raise ModuleNotFoundError({missing!r}, name={missing!r})\n")
    text = refusal("main:app")
    assert text.startswith("Traceback") and f"ModuleNotFoundError: {missing}" in text


def test_a_program_that_ends_on_its_import_is_not_loaded(project: Project) -> None:
    project.write(main="raise SystemExit(0)\n")
    assert "SystemExit: 0\n\nyour program raised" in refusal("main:app")


def test_an_interrupt_is_not_an_error_of_the_program(project: Project) -> None:
    project.write(main="raise KeyboardInterrupt\n")
    with pytest.raises(KeyboardInterrupt):
        load("main:app")


def test_an_attribute_that_fails_is_an_error_of_the_program(project: Project) -> None:
    project.write(main="def __getattr__(name): raise AttributeError(f'never {name}')\n")
    text = refusal("main:app")
    assert "AttributeError: never app" in text
    assert text.endswith("your program raised this error while `main:app` was read")


# Attributes -------------------------------------------------------------------------------------


def test_a_missing_attribute_is_told_the_apps_and_factories(project: Project) -> None:
    project.write(
        main=f"""\
{APP}
second = WebSuckets()


def make() -> WebSuckets: ...
def quoted() -> "websuckets.WebSuckets": ...
def make_app(name="desk"): ...
def app_of(name): ...
def application_name() -> str: ...
def other(): ...
async def async_app(): ...
from json import load as load_app
"""
    )
    assert refusal("main:ap") == (
        f"`main` has no attribute `ap`\n  `main` is {project.directory / 'main.py'}\n"
        "  apps there: main:app, main:second\n"
        "  functions there that may return an app, with --factory: "
        "main:make, main:make_app, main:quoted\n  did you mean `app`?"
    )


def test_a_missing_attribute_of_an_object_is_told_its_type(project: Project) -> None:
    project.write(main=APP)
    assert refusal("main:app.server").startswith("a WebSuckets has no attribute `server`\n")


def test_a_package_without_a_file_is_named_so(project: Project) -> None:
    project.write(**{"desk/server": APP})
    assert "`desk` is a module without a file" in refusal("desk:app")


@pytest.mark.parametrize(
    ("value", "why"),
    [
        ("CommandGroup()", "is a CommandGroup, not an app; include it in one"),
        ("FastAPI()", "is a FastAPI application, not a WebSuckets app: it is served by an ASGI "),
        ("Starlette()", "is a Starlette application"),
        ("Litestar()", "is a Litestar application"),
        ("WebSuckets().asgi", "is the ASGI side of an app; name the app itself, without `.asgi`"),
        ("WebSuckets", "is the class WebSuckets, not a WebSuckets app"),
        ("5", "is an object of type int, not a WebSuckets app"),
        ("None", "is None, not a WebSuckets app"),
        ("json", "is a module, not a WebSuckets app"),
        ("lambda: WebSuckets()", "is a function; if it returns the app, add --factory"),
        ("make", "is an async function: it is not an app"),
    ],
)
def test_anything_but_an_app_gets_its_own_hint(project: Project, value: str, why: str) -> None:
    project.write(
        main=f"""\
        import json
        from fastapi import FastAPI
        from litestar import Litestar
        from starlette.applications import Starlette
        from websuckets import CommandGroup, WebSuckets

        async def make(): ...
        served = WebSuckets()
        app = {value}
        """
    )
    text = refusal("main:app")
    assert text.startswith(f"`main:app` {why}")
    assert "\n  apps there: main:served" in text
    assert ("`uvicorn main:app`" in text) == ("served by an ASGI server" in text)
    assert f"`main:app` {why}" in refusal(None) or value in ("None", "json")


# Factories --------------------------------------------------------------------------------------


def test_a_factory_returns_the_app(project: Project) -> None:
    project.write(main=f"{APP}\n\ndef make_app(name='desk') -> WebSuckets:\n    return app\n")
    assert load("main:make_app", factory=True) is sys.modules["main"].app


def test_a_factory_is_found_under_the_name_of_an_app(project: Project) -> None:
    project.write(main="import websuckets\n\ndef app():\n    return websuckets.WebSuckets()\n")
    assert isinstance(load(None, factory=True), WebSuckets)


def test_a_class_may_be_the_factory(project: Project) -> None:
    project.write(main="from websuckets import WebSuckets\n")
    assert isinstance(load("main:WebSuckets", factory=True), WebSuckets)


@pytest.mark.parametrize(
    ("value", "why"),
    [
        ("WebSuckets()", "is an app already: leave --factory out"),
        ("5", "cannot be called: it is an object of type int"),
        ("lambda name, *more: None", "needs arguments (name); a factory has none"),
        ("make", "is an async function: it is not an app, and cannot make one"),
        ("lambda: make()", "returned an object of type coroutine instead of a WebSuckets app"),
        ("lambda: None", "returned None instead of a WebSuckets app"),
        ("dict", "returned an object of type dict instead of a WebSuckets app"),
    ],
)
def test_a_factory_that_cannot_be_one_is_refused(project: Project, value: str, why: str) -> None:
    project.write(main=f"from websuckets import WebSuckets\nasync def make(): ...\nit = {value}\n")
    text = refusal("main:it", factory=True)
    assert text.startswith(f"`main:it` {why}") and "\n  `main` is " in text


def test_an_error_of_a_factory_is_an_error_of_the_program(project: Project) -> None:
    project.write(main="def make():\n    raise ValueError('no settings')\n")
    text = refusal("main:make", factory=True)
    assert "line 2, in make" in text and "loading.py" not in text
    assert text.endswith("your program raised this error while `main:make` was called")


# Without a target -------------------------------------------------------------------------------


def test_pyproject_names_the_app(project: Project) -> None:
    project.write(main=APP, **{"desk/server": APP})
    project.write_file("pyproject.toml", '[tool.websuckets]\napp = "desk.server:app"\n')
    assert load(None) is sys.modules["desk.server"].app
    assert "main" not in sys.modules


def test_pyproject_of_the_current_directory_counts(project: Project) -> None:
    project.write(**{"src/desk/server": APP})
    project.write_file("pyproject.toml", '[tool.websuckets]\napp = "desk.server"\n')
    assert load(None, app_dir=Path("src")) is sys.modules["desk.server"].app


@pytest.mark.parametrize(
    ("files", "module"),
    [
        ({"main": APP, "app": APP}, "main"),
        ({"main": "import app\n", "app": APP}, "app"),
        ({"app": APP}, "app"),
        ({"my_desk/__init__": APP}, "my_desk"),
        ({"my_desk": APP}, "my_desk"),
        ({"my_desk/__init__": "", "my_desk/main": APP, "my_desk/app": APP}, "my_desk.main"),
        ({"my_desk/__init__": "import my_desk.app\n", "my_desk/app": APP}, "my_desk.app"),
        ({"my_desk/main": "", "my_desk/app": APP}, "my_desk.app"),
    ],
)
def test_an_app_is_found_where_it_usually_is(
    project: Project, files: dict[str, str], module: str
) -> None:
    project.write(**files)
    project.write_file("pyproject.toml", '[project]\nname = "My.Desk"\n')
    assert load(None) is sys.modules[module].app


def test_an_app_that_is_found_nowhere_is_told_where_was_looked(project: Project) -> None:
    project.write(
        main="app = 5\n", **{"my_desk/main": "from websuckets import WebSuckets as make\n"}
    )
    project.write(
        **{"my_desk/main": "from websuckets import WebSuckets\n\nserver = WebSuckets()\n"}
    )
    project.write_file("pyproject.toml", '[project]\nname = "My-Desk"\n')
    directory = project.directory
    assert refusal(None) == (
        "no app is named, and none was found in\n"
        "  pyproject.toml: it has no [tool.websuckets] app\n"
        "  `main:app` is an object of type int, not a WebSuckets app\n"
        f"    `main` is {directory / 'main.py'}\n"
        "  app.py: it is not there\n"
        "  `my_desk` has no `app`\n"
        "    `my_desk` is a module without a file\n"
        "  `my_desk.main` has no `app`\n"
        f"    `my_desk.main` is {directory / 'my_desk' / 'main.py'}\n"
        "    apps there: my_desk.main:server\n"
        "  my_desk.app: it is not there\n"
        "name the app: write module:attribute, as in main:app or desk.server:app"
    )


def test_nothing_at_all_is_told_where_was_looked(project: Project) -> None:
    assert refusal(None).splitlines()[1:-1] == [
        "  pyproject.toml: it is not there",
        "  main.py: it is not there",
        "  app.py: it is not there",
    ]


@pytest.mark.parametrize(
    ("text", "hint"),
    [
        ('[project]\nname = "desk"\n', "  desk, the package of the project: it is not there"),
        ("[project]\nname = 5\n", "  app.py: it is not there"),
        ("project = 5\ntool = []\n", "  app.py: it is not there"),
    ],
)
def test_a_project_without_its_package_is_told_so(project: Project, text: str, hint: str) -> None:
    project.write_file("pyproject.toml", text)
    assert refusal(None).splitlines()[-2] == hint


def test_a_package_in_src_is_noticed(project: Project) -> None:
    project.write(**{"src/desk/__init__": APP})
    project.write_file("pyproject.toml", '[project]\nname = "desk"\n')
    below = Path("src/desk/__init__.py")
    assert f"desk, the package of the project: {below} exists: add --app-dir src" in refusal(None)
    assert isinstance(load(None, app_dir=Path("src")), WebSuckets)


def test_a_setting_that_is_not_a_target_is_refused(project: Project) -> None:
    project.write_file("pyproject.toml", "[tool.websuckets]\napp = 5\n")
    assert refusal(None).startswith("pyproject.toml: [tool.websuckets] app = 5: write module:")


@pytest.mark.parametrize("content", [b"[project\n", b"\xff"])
def test_a_pyproject_that_cannot_be_read_is_told(project: Project, content: bytes) -> None:
    file = project.write_file("pyproject.toml", "")
    file.write_bytes(content)
    assert refusal(None).startswith(f"{file} cannot be read: ")
