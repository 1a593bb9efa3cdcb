"""The embedded procedural head: a `HeadModel` made by code, and persons to dress it.

    model = head_model()
    person = sample_person(7)
    scene = person_scene(person)                       # render with headjax.render.mesh
    positions, valid = outer_surface_map(person, size=32)
    code = person_code(person)
"""

from headjax.head.procedural.build import head_model
from headjax.head.procedural.person import (
    Person,
    neutral_person,
    person_code,
    person_code_names,
    sample_person,
)
from headjax.head.procedural.scene import outer_surface_map, person_scene

__all__ = [
    "Person",
    "head_model",
    "neutral_person",
    "outer_surface_map",
    "person_code",
    "person_code_names",
    "person_scene",
    "sample_person",
]
