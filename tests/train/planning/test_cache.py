"""Plans that are kept: found again by the same program, not by another."""

from pathlib import Path

import pytest

from headjax.errors import UserError
from headjax.train.planning import cache

PROGRAM = "module @jit_update {\n  %0 = stablehlo.add %a, %b : tensor<f32> loc(#loc4)\n}\n#loc4 = 1"


def test_a_plan_is_found_again(tmp_path):
    plan = {"schema": cache.SCHEMA, "flops": 1.5}
    name = cache.key(PROGRAM, topology="v5e:4x4")
    assert cache.load(tmp_path, name) is None
    cache.save(tmp_path, name, plan)
    assert cache.load(tmp_path, name)["flops"] == 1.5


def test_the_key_changes_with_program_topology_and_versions(monkeypatch):
    keys = {cache.key(PROGRAM, topology="v5e:4x4"), cache.key(PROGRAM, topology="v5e:2x8")}
    keys.add(cache.key(PROGRAM.replace("add", "mul"), topology="v5e:4x4"))
    monkeypatch.setattr(cache, "versions", lambda: {"jax": "99"})
    keys.add(cache.key(PROGRAM, topology="v5e:4x4"))
    assert len(keys) == 4


def test_the_key_does_not_depend_on_where_the_source_lies():
    moved = PROGRAM.replace("#loc4 = 1", '#loc4 = loc("/elsewhere/unet.py":3:4)')
    assert cache.key(moved, topology="v5e:4x4") == cache.key(PROGRAM, topology="v5e:4x4")


def test_plans_of_another_schema_and_damaged_ones_are_made_again(tmp_path):
    cache.save(tmp_path, "old", {"schema": cache.SCHEMA - 1})
    (tmp_path / "damaged.json").write_text("{")
    assert cache.load(tmp_path, "old") is None and cache.load(tmp_path, "damaged") is None


def test_the_folder_follows_the_user_s_cache(monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", "/somewhere")
    assert cache.default_folder() == Path("/somewhere/headjax/plans")


def test_a_folder_that_cannot_be_written_is_told(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match="--cache"):
        cache.save(tmp_path / "file", "a", {})
