"""The examples of docs/files.md are what the strict readers take."""

from __future__ import annotations

import re
from pathlib import Path

from llama_hub.deploy import config, spec
from llama_hub.hub import catalog
from llama_hub.licenses import terms

PAGE = Path(__file__).parents[1] / "docs" / "files.md"


def test_each_example_is_read(tmp_path: Path, home: Path) -> None:
    settings, models, licence = re.findall(r"```toml\n(.*?)```", PAGE.read_text(), re.DOTALL)
    home.mkdir()
    (home / "config.toml").write_text(settings)
    assert config.spec_defaults(spec.KEYS) == {"context": 2048, "replicas_max": 2}
    assert config.backend_settings("sagemaker", ["region"]) == {"region": "eu-west-1"}
    (tmp_path / "catalogue.toml").write_text(models)
    (model,) = catalog.read(tmp_path / "catalogue.toml")
    assert model.architecture is not None
    (home / "licenses/terms").mkdir(parents=True)
    (home / "licenses/terms/acme.toml").write_text(licence)
    assert terms.load("acme-community").version_date == "2024-01-02"
