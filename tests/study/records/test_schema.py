"""Records fit one description; other versions are upgraded or refused."""

import pytest
from made_records import whole_best, whole_record, whole_trial

from study.errors import RecordError
from study.records import schema
from study.records.files import write_json, write_sealed
from study.records.runs import RunFolder
from study.records.schema import Best, Record, Trial, checked

WHOLE = {Record: whole_record(files={}), Best: whole_best(), Trial: whole_trial()}


@pytest.mark.parametrize(
    ("kind", "changes", "fault"),
    [
        (Record, {"schema": 3}, r"newer version of this package \(schema 3; .* up to 2\)"),
        (Record, {"schema": 1}, r"schema 1, which is no longer read .* --fresh"),
        (Record, {"status": "fine"}, r"damaged \(status is 'fine', not one of \('ok', 'div"),
        (Record, {"cost": {"train_s": "long"}}, r"damaged \(cost.train_s is 'long', not float"),
        (Record, {"divergence": {"step": 3}}, r"damaged \(divergence.example_ids is missing"),
        (Record, {"seed": True}, r"damaged \(seed is 'True', not int"),
        (Record, {"files": []}, r"damaged \(files is '\[\]', not dict"),
        (Best, {"confirmation_seeds": [1, "x"]}, r"\(confirmation_seeds\.1 is 'x', not int"),
        (Trial, {"settings": {"beta": None}}, r"damaged \(settings.beta is 'None', not float"),
    ],
)
def test_what_does_not_fit_is_named(tmp_path, kind, changes, fault):
    assert checked(WHOLE[kind], kind, tmp_path / "x.json") == WHOLE[kind]
    with pytest.raises(RecordError, match=rf"x\.json .*{fault}"):
        checked(WHOLE[kind] | changes, kind, tmp_path / "x.json")


def test_a_missing_field_is_named(tmp_path):
    write_json(tmp_path / "record.json", {k: v for k, v in WHOLE[Record].items() if k != "cost"})

    assert "cost is missing" in RunFolder(tmp_path).faults()[0]


def test_an_earlier_schema_goes_through_its_upgrade(tmp_path, monkeypatch):
    old = {key: value for key, value in WHOLE[Record].items() if key != "out_of_memory"}
    write_sealed(tmp_path / "record.json", old | {"schema": 1})
    monkeypatch.setitem(schema.UPGRADES, 1, lambda r: {**r, "schema": 2, "out_of_memory": []})

    assert RunFolder(tmp_path).record() == WHOLE[Record]
