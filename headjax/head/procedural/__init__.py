"""The embedded procedural head: a `HeadModel` made by code, and persons to dress it.

    model = head_model()
    person = sample_person(7)
    scene = person_scene(person)                       # render with headjax.render.mesh
    positions, valid = outer_surface_map(person, size=32)
    code = person_code(person)
    latent = person_latent(7)                          # standard normal numbers, of which
    person = person_from_latent(latent)                # any others make a person, too
"""

from headjax.head.procedural.build import head_model
from headjax.head.procedural.latent import latent_size, person_from_latent, person_latent
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
    "latent_size",
    "neutral_person",
    "outer_surface_map",
    "person_code",
    "person_code_names",
    "person_from_latent",
    "person_latent",
    "person_scene",
    "sample_person",
]
