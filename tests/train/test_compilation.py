"""The folder of compiled programs: private, one for each kind of machine, and used."""

import os

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.experimental.compilation_cache import compilation_cache

from headjax.errors import UserError
from headjax.train import compilation


@pytest.fixture(autouse=True)
def cache_of_the_tests():
    """Gives the tests' own cache back."""
    names = ("jax_compilation_cache_dir", "jax_persistent_cache_min_compile_time_secs")
    before = {name: getattr(jax.config, name) for name in names}
    jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.0)
    yield
    for name, value in before.items():
        jax.config.update(name, value)
    compilation_cache.reset_cache()


def test_programs_are_kept_and_found_again(tmp_path):
    inside = compilation.use_cache(tmp_path / "new" / "cache")
    assert inside.parent == tmp_path / "new" / "cache"

    def program(x):
        return jnp.sin(x) * 17.5

    events = []
    jax.monitoring.register_event_listener(lambda event, **_: events.append(event))
    first = np.asarray(jax.jit(program)(jnp.arange(5.0)))
    assert len(list(inside.rglob("jit_program*-cache"))) == 1
    jax.clear_caches()
    events.clear()
    np.testing.assert_array_equal(jax.jit(program)(jnp.arange(5.0)), first)
    assert "/jax/compilation_cache/cache_hits" in events
    assert "/jax/compilation_cache/cache_misses" not in events


def test_the_folder_is_the_owners_alone(tmp_path):
    folder = tmp_path / "cache"
    inside = compilation.use_cache(folder)
    assert [place.stat().st_mode & 0o777 for place in (folder, inside)] == [0o700, 0o700]
    assert compilation.use_cache(folder) == inside


@pytest.mark.parametrize("mode", [0o770, 0o707, 0o777])
@pytest.mark.parametrize("where", ["folder", "inside"])
def test_a_folder_that_others_can_write_is_refused(where, mode, tmp_path):
    before = jax.config.jax_compilation_cache_dir
    inside = tmp_path / compilation.machine()
    inside.mkdir(mode=0o700)
    open_place = tmp_path if where == "folder" else inside
    open_place.chmod(mode)
    with pytest.raises(UserError, match="can be written by others.*chmod go-w"):
        compilation.use_cache(tmp_path)
    assert jax.config.jax_compilation_cache_dir == before


def test_another_users_folder_is_refused(tmp_path, monkeypatch):
    monkeypatch.setattr(os, "geteuid", lambda: tmp_path.stat().st_uid + 1)
    with pytest.raises(UserError, match="belongs to another user"):
        compilation.use_cache(tmp_path)


def test_a_file_in_its_place_is_told(tmp_path):
    (tmp_path / "cache").touch()
    with pytest.raises(UserError, match="cache.*cannot be written"):
        compilation.use_cache(tmp_path / "cache")


def test_kinds_of_machines_have_folders_of_their_own(monkeypatch):
    here = compilation.machine()
    assert here == compilation.machine() and here.startswith(jax.default_backend())
    monkeypatch.setattr(compilation, "_cpu_features", lambda: "flags: fpu sse2")
    assert compilation.machine() != here
