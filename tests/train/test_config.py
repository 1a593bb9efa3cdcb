import ml_collections
import pytest

from headjax.errors import UserError
from headjax.train import config as configs
from tests.toy import config as toy_config

TOY = toy_config.__file__


def load(*overrides, preset=""):
    return configs.load(TOY + preset, overrides=overrides)


def test_the_first_preset_is_the_default():
    config = load()
    assert (config.name, config.preset, config.values.train.steps) == ("config", "plain", 40)
    assert load(preset=":long").values.train.steps == 200


def test_overrides_keep_the_field_types():
    values = load(
        "--config.train.steps=7", "--config.train.noise", "2", "--noconfig.train.average",
        "--config.rates=(1.0, 2.0)",
    ).values  # fmt: skip
    assert (values.train.steps, values.train.average, values.rates) == (7, False, (1.0, 2.0))
    assert values.train.noise == 2.0 and isinstance(values.train.noise, float)


@pytest.mark.parametrize(
    ("overrides", "sentence"),
    [
        (["--config.train.stps=3"], "config.train has no field 'stps' .did you mean 'steps'"),
        (["--config.trian.steps=3"], "config has no field 'trian' .did you mean 'train'"),
        (["--config.train.steps.x=3"], "config.train.steps has no field 'x'"),
        (["--config.train.steps=abc"], "config.train.steps=abc: invalid literal"),
        (["--config.train.average=7"], "config.train.average=7: give true or false"),
        (["--config.train=7"], "config.train=7: "),
        (["--config.train.noise"], "Missing value for flag --config.train.noise"),
        (["stray"], "unexpected argument 'stray'"),
    ],
)
def test_a_wrong_override_is_told_in_one_sentence(overrides, sentence):
    with pytest.raises(UserError, match=sentence) as caught:
        load(*overrides)
    assert "\n" not in str(caught.value)


def test_unknown_presets_and_files_say_what_there_is(tmp_path):
    with pytest.raises(UserError, match="no preset 'lng' .did you mean 'long'.*plain, long"):
        load(preset=":lng")
    with pytest.raises(UserError, match="no config file absent; the shipped configs are"):
        configs.load("absent")


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        ("x = = 1", "is not Python"),
        ("x = 1", "has no function get_config"),
        ("import ml_collections\ndef get_config(): return ml_collections.ConfigDict()", "'system'"),
    ],
)
def test_files_that_are_no_configs_are_refused(tmp_path, text, sentence):
    path = tmp_path / "bad.py"
    path.write_text(text)
    with pytest.raises(UserError, match=sentence):
        configs.load(str(path))


def test_a_work_directory_keeps_its_config(tmp_path):
    config = load("--config.train.steps=7")
    assert not configs.keep(tmp_path, config)
    assert configs.keep(tmp_path, config)
    kept = configs.read(tmp_path)
    assert (kept.name, kept.preset) == (config.name, config.preset)
    assert isinstance(kept.values, ml_collections.FrozenConfigDict)
    assert configs.differences(kept.values.to_dict(), config.values.to_dict()) == []


def test_another_config_in_a_work_directory_is_refused_naming_each_field(tmp_path):
    configs.keep(tmp_path, load())
    other = load("--config.train.steps=7", "--config.rates=(1.0,)", "--config.seed=4")
    expected = "rates: .0.1, 0.01. → .1.0.; seed: 3 → 4; train.steps: 40 → 7"
    with pytest.raises(UserError, match=expected):
        configs.keep(tmp_path, other)


@pytest.mark.parametrize("text", ["", "{", '{"schema_version": 1}'])
def test_a_damaged_config_copy_is_named(tmp_path, text):
    (tmp_path / "config.json").write_text(text)
    for use in (lambda: configs.keep(tmp_path, load()), lambda: configs.read(tmp_path)):
        with pytest.raises(UserError, match="config.json is damaged"):
            use()


def test_a_folder_without_a_config_is_no_work_directory(tmp_path):
    with pytest.raises(UserError, match="is no work directory"):
        configs.read(tmp_path)


def test_absent_fields_show_as_such():
    changes = configs.differences({"a": {"b": 1}, "c": {}}, {"a": {"d": None}, "c": {}})
    assert changes == ["a.b: 1 → (absent)", "a.d: (absent) → None"]


def test_every_shipped_config_has_presets_with_a_line_each():
    for name in configs.shipped():
        assert configs.presets(name), name
