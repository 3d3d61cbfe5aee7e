"""What `evenhand run` refuses before it has computed anything."""

import os

import pytest

from evenhand.cli import main
from evenhand.errors import ResourceError, UsageError
from evenhand.experiment import pipeline
from tiny_experiment import config_of, run


@pytest.fixture(autouse=True)
def _no_work(monkeypatch):
    """Whatever gets so far as to fetch weights was not refused."""

    def fetch(*_, **__):
        pytest.fail("work was begun")

    monkeypatch.setattr(pipeline, "fetch", fetch)


class TestRefused:
    """A folder that is not this experiment's is left as it is."""

    def refused(self, out, config=None):
        """Run and return the sentence; nothing may change."""
        files = sorted(out.rglob("*")) if out.is_dir() else out.read_bytes()
        with pytest.raises(UsageError) as caught:
            run(config or config_of(), out)
        assert (sorted(out.rglob("*")) if out.is_dir() else out.read_bytes()) == files
        assert "--out" in str(caught.value)
        return str(caught.value)

    @pytest.mark.parametrize("change", [{"name": "other"}, {"data__units": "voxel"}])
    def test_another_experiment(self, tmp_path, change):
        """Another name, or the same on other data."""
        out = tmp_path / "out"
        out.mkdir()
        (out / "config.json").write_text(config_of().model_dump_json())
        assert "holds another experiment" in self.refused(out, config_of(**change))

    def test_foreign_folder(self, tmp_path):
        """Somebody's documents are no place for a run."""
        (tmp_path / "thesis.txt").write_text("...")
        assert "is not empty and not a run" in self.refused(tmp_path)

    def test_file(self, tmp_path):
        """Nor is a file."""
        (tmp_path / "out").write_text("...")
        assert "is a file" in self.refused(tmp_path / "out")

    def test_older_version(self, tmp_path):
        """A config that this version cannot read is not overwritten."""
        (tmp_path / "config.json").write_text('{"name": "tiny", "old": 1}')
        with pytest.raises(UsageError, match="not a config of this version"):
            run(config_of(), tmp_path)

    @pytest.mark.skipif(os.geteuid() == 0, reason="root writes everywhere")
    def test_read_only_place(self, tmp_path):
        """A place where nothing can be written is named."""
        tmp_path.chmod(0o500)
        with pytest.raises(ResourceError, match="out' could not be read or written"):
            run(config_of(), tmp_path / "out")
        tmp_path.chmod(0o700)


MINIMAL = 'name = "tiny"\n[data.phantom]\n'


class TestCommand:
    """Wrong use of `evenhand run`: one sentence, exit 2, nothing made."""

    @pytest.mark.parametrize(
        ("told", "words"),
        [
            ((None,), ("There is no config file",)),
            ((MINIMAL + "[trainning]\n",), ("unknown key 'trainning'", "'training'")),
            ((MINIMAL, "--set", "training.epoch=2"), ("'training.epoch'", "training.epochs")),
            ((MINIMAL, "--set", "training.epochs"), ("--set wants key=value",)),
            ((MINIMAL, "--set", "training.epochs=0"), ("training.epochs", "greater than")),
            ((MINIMAL, "--set", "name.more=2"), ("'name' is a value",)),
            (("name = ",), ("not valid TOML",)),
        ],
    )
    def test_one_sentence(self, tmp_path, monkeypatch, capsys, told, words):
        """The key or file is named; there is no traceback."""
        text, *arguments = told
        path = tmp_path / "tiny.toml"
        if text is not None:
            path.write_text(text)
        command = ["evenhand", "run", str(path), *arguments, "--out", str(tmp_path / "out")]
        monkeypatch.setattr("sys.argv", command)
        with pytest.raises(SystemExit) as ending:
            main()
        said = " ".join(capsys.readouterr().err.split())
        assert ending.value.code == 2, said
        assert said.startswith("Error: ")
        assert "Traceback" not in said
        for word in words:
            assert word in said
        assert not (tmp_path / "out").exists()
