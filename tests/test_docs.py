"""What README and docs say: their code blocks, and the names of files and functions.

Python blocks of a page are executed one after the other in one namespace. Of console blocks, every
command of this repository is parsed by the click command that it calls, and all commands are run
but `hear-mwmae export`, which takes half a minute and has test_export.py. The comment
`<!-- not run: reason -->` above a block leaves out the running, not the parsing. The blocks of
docs/integrations.md are scripts, which tests/test_integrations.py runs. Links are checked by
`make docs`.
"""

import importlib
import re
import shlex
import shutil
from contextlib import suppress
from pathlib import Path
from typing import NamedTuple

import click
import pytest
import soundfile
from mutate import MUTATIONS
from reference import AUDIO

import hear_mwmae
from hear_mwmae.audio import read_audio
from hear_mwmae.cli import main as hear_mwmae_command

ROOT = Path(__file__).resolve().parents[1]
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]
#: Their commands are parsed, not run.
OTHERS = [
    ROOT / "CONTRIBUTING.md",
    *sorted(ROOT.glob("research/**/README.md")),
    *sorted(ROOT.glob("weights/*/README.md")),
]
#: A file of the repository.
FILE = re.compile(
    r"\b(?:docs|eval|examples|hear_mwmae|research|tests|weights)/[\w/.-]+\.(?:csv|json|md|py|toml)\b"
)
SCRIPTS = ROOT / "docs" / "integrations.md"
BLOCK = re.compile(
    r"(?:<!-- not run:(?P<reason>[^\n]*?)-->\n)?"
    r"^```(?P<language>python|console)\n(?P<text>.*?)^```$",
    re.M | re.S,
)


class Block(NamedTuple):
    """A code block; ``reason`` says why it is not run, None where it is."""

    language: str
    text: str
    reason: str | None


def blocks(page: Path) -> list[Block]:
    return [Block(m["language"], m["text"], m["reason"]) for m in BLOCK.finditer(page.read_text())]


def commands(text: str) -> list[list[str]]:
    """The words of every command of a console block, without prompts and comments."""
    lines = re.sub(r"\\\n", " ", re.sub(r"^[$>] ?", "", text, flags=re.M)).splitlines()
    return [words for line in lines if (words := shlex.split(line, comments=True))]


def called(words: list[str]) -> tuple[click.Command, list[str]] | None:
    """The click command of this repository that ``words`` call, perhaps through torchrun, and its
    arguments.
    """
    if "hear-mwmae" in words:
        return hear_mwmae_command, words[words.index("hear-mwmae") + 1 :]
    if words[:2] == ["python", "-m"] and (ROOT / words[2].partition(".")[0]).is_dir():
        name = words[2]
        package = (ROOT / name.replace(".", "/")).is_dir()
        return importlib.import_module(f"{name}.__main__" if package else name).main, words[3:]
    return None


def parse(command: click.Command, arguments: list[str]) -> None:
    """Raises click.UsageError for options, arguments and choices that the command does not take,
    and for missing ones.
    """
    while isinstance(command, click.Group) and not arguments[0].startswith("-"):
        name = arguments.pop(0)
        if name not in command.commands:
            raise click.UsageError(f"no command {name!r}")
        command = command.commands[name]
    with suppress(click.exceptions.Exit):  # --help
        command.make_context(str(command.name), arguments)


@pytest.fixture
def any_path(monkeypatch):
    """Paths in the docs need not exist to be parsed."""
    monkeypatch.setattr(
        click.Path, "convert", lambda self, value, param, ctx: self.coerce_path_result(str(value))
    )


@pytest.fixture
def place(tmp_path, monkeypatch, audio_folder) -> Path:
    """A folder with the files that the docs name."""
    (tmp_path / "tests").mkdir()
    shutil.copytree(AUDIO, tmp_path / "tests" / "data" / "audio")
    shutil.copytree(AUDIO, tmp_path / "clips")
    shutil.copytree(audio_folder, tmp_path / "data" / "debian")
    audio = read_audio(AUDIO / "piano.flac", 16000).numpy()
    for name in ("talk.flac", "talk.wav", "talk.mp3", "clip.wav", "piano.flac"):
        soundfile.write(tmp_path / name, audio, 16000)
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.mark.parametrize("page", PAGES + OTHERS, ids=lambda page: str(page.relative_to(ROOT)))
def test_commands_and_files_exist(page, any_path):
    wrong = [name for name in FILE.findall(page.read_text()) if not (ROOT / name).is_file()]
    for block in blocks(page):
        for words in commands(block.text) if block.language == "console" else ():
            if call := called(words):
                try:
                    parse(*call)
                except click.UsageError as error:
                    wrong.append(f"{shlex.join(words)}: {error.format_message()}")
    assert not wrong, "\n".join(wrong)


@pytest.mark.parametrize(
    "page",
    [page for page in PAGES if page != SCRIPTS and any(b.reason is None for b in blocks(page))],
    ids=lambda page: page.stem,
)
def test_blocks_run(page, place, request):
    if page.stem == "export":
        shutil.copy(request.getfixturevalue("exported")[1], "mwmae.onnx")
    namespace: dict[str, object] = {}
    for block in blocks(page):
        if block.reason is not None:
            continue
        if block.language == "python":
            exec(compile(block.text, str(page), "exec"), namespace)
            continue
        for words in commands(block.text):
            call = called(words)
            assert call, f"mark its block with <!-- not run: reason -->: {shlex.join(words)}"
            command, arguments = call
            if arguments[0] == "export":
                continue
            command.main(arguments, prog_name=words[0], standalone_mode=False)


def test_the_api_page_has_what_is_exported():
    page = (ROOT / "docs" / "api.md").read_text()
    words = set(re.findall(r"\w+", page))
    assert set(hear_mwmae.__all__) - words == {"__version__"}


def test_mutations_fit_the_code():
    """tests/mutate.py takes too long to run here.

    Its texts are in the code, and the table of its results has a row for each.
    """
    for file, text, replacement in MUTATIONS.values():
        assert text in (ROOT / "hear_mwmae" / file).read_text() and text != replacement
    table = (ROOT / "docs" / "design.md").read_text()
    assert [name for name in MUTATIONS if f"\n| {name} | " not in table] == []
