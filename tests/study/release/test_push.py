"""What is pushed arrives whole and private, and no message holds a token."""

import huggingface_hub
import pytest
from study_release_hub import serving

from study.errors import ModelError
from study.release.push import push_folder, without_tokens

# huggingface_hub 2.4 calls httpx in a way of before.
pytestmark = pytest.mark.filterwarnings("ignore:Use 'content=:DeprecationWarning")

TOKEN = "hf_SecretSecretSecret123"


@pytest.fixture
def folder(tmp_path):
    folder = tmp_path / "merged"
    folder.mkdir()
    (folder / "config.json").write_text('{"model_type": "llama"}')
    (folder / "model.safetensors").write_bytes(bytes(range(256)) * 40)
    (folder / "README.md").write_text("---\ntags: [orpo-study]\n---\n# A model\n")
    return folder


@pytest.fixture
def hub(monkeypatch, request):
    with serving(**getattr(request, "param", {})) as hub:
        constants = huggingface_hub.constants
        monkeypatch.setattr(constants, "ENDPOINT", hub.address)
        monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
        monkeypatch.setattr(constants, "HF_HUB_DISABLE_XET", True)
        monkeypatch.setenv("HF_TOKEN", TOKEN)
        huggingface_hub.close_session()
        yield hub
    huggingface_hub.close_session()


def push(folder, **options):
    return push_folder(folder, "me/model", **{"public": False, "message": "x", **options})


def test_every_file_arrives_as_it_is_in_a_private_repository(folder, hub) -> None:
    address = push(folder)

    assert address == f"{hub.address}/me/model"
    assert hub.files == {path.name: path.read_bytes() for path in folder.iterdir()}
    assert hub.private
    assert hub.tokens == {TOKEN}


def test_a_repository_is_public_only_where_it_was_asked_for(folder, hub) -> None:
    push(folder, public=True)

    assert not hub.private


def test_a_private_model_is_not_pushed_to_a_repository_that_is_public(
    folder, hub, monkeypatch
) -> None:
    monkeypatch.setattr("huggingface_hub.HfApi.create_repo", lambda *_, **__: "there already")
    hub.private = False

    with pytest.raises(ModelError, match="is public already"):
        push(folder)
    assert hub.files == {}


@pytest.mark.parametrize("hub", [{"refuse": True}], indirect=True)
def test_a_refusal_that_repeats_the_token_is_told_without_it(folder, hub, capfd) -> None:
    with pytest.raises(ModelError) as found:
        push(folder)
    said = capfd.readouterr()

    assert "cannot push to me/model" in str(found.value)
    assert hub.tokens == {TOKEN}
    assert TOKEN not in str(found.value) + said.out + said.err
    assert found.value.__suppress_context__


def test_without_a_token_nothing_is_asked_of_the_hub(folder, hub, monkeypatch) -> None:
    monkeypatch.setattr("huggingface_hub.get_token", lambda: None)

    with pytest.raises(ModelError, match="hf auth login"):
        push(folder)
    assert hub.tokens == set()


@pytest.mark.parametrize(
    "text",
    ["it is my-own-token", "Authorization: Bearer other", "hf_AnotherToken99 was refused"],
)
def test_anything_that_may_be_a_token_is_taken_out(text) -> None:
    clean = without_tokens(text, "my-own-token")

    assert "(token)" in clean
    assert not {"my-own-token", "other", "hf_AnotherToken99"} & set(clean.split())
