"""A head in FLAME's form and its linear blend skinning.

Alphabet: v vertices, j joints, i identity directions, e expressions, f triangles.

    shaped   = template + identity_basis . identity + expression_basis . expression
    joints   = joint_regressor . shaped
    posed    = shaped + pose_basis . vec(R(pose[1:]) - I)
    vertices = sum_j weights_j (G_j posed),  G_j the chain of rigid transforms relative to rest

Left and right are the subject's; lengths are world units (the face looks along +z, y is up).
Source: Li et al., "Learning a model of facial shape and expression from 4D scans" (FLAME),
eq. 1-5.
"""

from __future__ import annotations

import jax.numpy as jnp
import numpy as np
from flax import struct
from jaxtyping import Array, Bool, Float, Int

from headjax.errors import UserError
from headjax.geometry.rotations import axis_angle_to_matrix

JOINT_NAMES = ("global", "neck", "jaw", "left_eye", "right_eye")
JOINT_PARENTS = (-1, 0, 1, 1, 1)
REGION_NAMES = ("face", "scalp", "eyes", "brows", "nose", "mouth", "ears", "neck")

FloatArray = Float[Array, "..."] | Float[np.ndarray, "..."]


@struct.dataclass
class HeadModel:
    """A linear head: template, bases, joints, skinning, topology, landmarks and regions.

    Attributes:
      template: [v, 3] rest vertices.
      identity_basis: [v, 3, i] displacement per unit of each identity coefficient.
      expression_basis: [v, 3, e] displacement per unit of each expression coefficient.
      pose_basis: [v, 3, 9 (j-1)] displacement per entry of R - I, joints 1.. in order, rows first.
      joint_regressor: [j, v] rows that sum to one.
      skinning_weights: [v, j] rows that sum to one.
      faces: [f, 3] triangles, counter-clockwise from outside.
      uvs: [t, 2] atlas coordinates in [0, 1], v up.
      uv_faces: [f, 3] the atlas' own triangles, face by face with `faces`.
      landmark_faces, landmark_barycentric: [68], [68, 3] the iBUG points on the surface.
      regions: name -> bool [v].
      parents, joint_names, identity_names, expression_names: static names.
    """

    template: FloatArray
    identity_basis: FloatArray
    expression_basis: FloatArray
    pose_basis: FloatArray
    joint_regressor: FloatArray
    skinning_weights: FloatArray
    faces: np.ndarray
    uvs: FloatArray
    uv_faces: np.ndarray
    landmark_faces: np.ndarray
    landmark_barycentric: FloatArray
    regions: dict[str, np.ndarray]
    parents: tuple[int, ...] = struct.field(pytree_node=False, default=JOINT_PARENTS)
    joint_names: tuple[str, ...] = struct.field(pytree_node=False, default=JOINT_NAMES)
    identity_names: tuple[str, ...] = struct.field(pytree_node=False, default=())
    expression_names: tuple[str, ...] = struct.field(pytree_node=False, default=())

    @property
    def num_identity(self) -> int:
        """Number of identity directions."""
        return self.identity_basis.shape[-1]

    @property
    def num_expression(self) -> int:
        """Number of expressions."""
        return self.expression_basis.shape[-1]

    @property
    def num_joints(self) -> int:
        """Number of joints, the global one included."""
        return len(self.parents)


def chain(
    rotations: Float[Array, "*b j 3 3"] | Float[np.ndarray, "*b j 3 3"],
    joints: Float[Array, "*b j 3"] | Float[np.ndarray, "*b j 3"],
    parents: tuple[int, ...],
) -> tuple[Float[Array, "*b j 3 3"], Float[Array, "*b j 3"]]:
    """World rotation of each joint, and the translation that takes a rest point along with it."""
    world, place = [rotations[..., 0, :, :]], [joints[..., 0, :]]
    for j, parent in enumerate(parents[1:], start=1):
        bone = joints[..., j, :] - joints[..., parent, :]
        place.append(place[parent] + jnp.einsum("...kl,...l->...k", world[parent], bone))
        world.append(world[parent] @ rotations[..., j, :, :])
    turned, placed = jnp.stack(world, -3), jnp.stack(place, -2)
    return turned, placed - jnp.einsum("...jkl,...jl->...jk", turned, joints)


def _check(name: str, array: FloatArray, expected: int) -> None:
    if array.shape[-1] != expected:
        raise UserError(
            f"the head's {name} has {array.shape[-1]} coefficients, but the model takes {expected}."
        )


def shaped_vertices(
    model: HeadModel, *, identity: FloatArray | None = None, expression: FloatArray | None = None
) -> Float[Array, "*b v 3"]:
    """Rest-pose vertices: template plus both linear bases; a missing code counts as zero."""
    shaped = jnp.asarray(model.template)
    if identity is not None:
        _check("identity", identity, model.num_identity)
        shaped = shaped + jnp.einsum("vki,...i->...vk", model.identity_basis, identity)
    if expression is not None:
        _check("expression", expression, model.num_expression)
        shaped = shaped + jnp.einsum("vke,...e->...vk", model.expression_basis, expression)
    return shaped


def joint_positions(
    model: HeadModel, shaped: Float[Array, "*b v 3"] | Float[np.ndarray, "*b v 3"]
) -> Float[Array, "*b j 3"]:
    """Rest positions of the joints for rest-pose vertices."""
    return jnp.einsum("jv,...vk->...jk", model.joint_regressor, shaped)


def skin(
    model: HeadModel,
    *,
    identity: FloatArray | None = None,
    expression: FloatArray | None = None,
    pose: FloatArray | None = None,
    translation: FloatArray | None = None,
) -> Float[Array, "*b v 3"]:
    """Vertices of the head for the given codes.

    Args:
      model: the head.
      identity: [*b, i] or None for the template.
      expression: [*b, e] or None for the neutral face.
      pose: [*b, j, 3] axis-angle in radians per joint, in the order of `model.joint_names`.
      translation: [*b, 3] added to every vertex.

    Returns:
      [*b, v, 3] vertices in world units.

    Raises:
      UserError: a code has another length than the model's basis.
    """
    shaped = shaped_vertices(model, identity=identity, expression=expression)
    if pose is not None:
        shaped = _pose(model, shaped, jnp.asarray(pose))
    if translation is not None:
        shaped = shaped + jnp.asarray(translation)[..., None, :]
    return shaped


def _pose(
    model: HeadModel, shaped: Float[Array, "*b v 3"], pose: Float[Array, "*b j 3"]
) -> Float[Array, "*b v 3"]:
    if pose.shape[-2:] != (model.num_joints, 3):
        raise UserError(
            f"the head's pose has shape {pose.shape}, but the model takes "
            f"[..., {model.num_joints}, 3] axis-angles, one per joint {model.joint_names}."
        )
    joints = joint_positions(model, shaped)
    rotations = axis_angle_to_matrix(pose)
    feature = (rotations[..., 1:, :, :] - jnp.eye(3, dtype=pose.dtype)).reshape(
        *pose.shape[:-2], -1
    )
    posed = shaped + jnp.einsum("vkp,...p->...vk", model.pose_basis, feature)
    turned, moved = chain(rotations, joints, model.parents)
    weights = jnp.asarray(model.skinning_weights)
    rotation = jnp.einsum("vj,...jkl->...vkl", weights, turned)
    offset = jnp.einsum("vj,...jk->...vk", weights, moved)
    return jnp.einsum("...vkl,...vl->...vk", rotation, posed) + offset


def posed_joints(
    model: HeadModel,
    *,
    identity: FloatArray | None = None,
    expression: FloatArray | None = None,
    pose: FloatArray | None = None,
) -> Float[Array, "*b j 3"]:
    """Joint positions after posing; same arguments as `skin`."""
    shaped = shaped_vertices(model, identity=identity, expression=expression)
    joints = joint_positions(model, shaped)
    if pose is None:
        return joints
    turned, moved = chain(axis_angle_to_matrix(jnp.asarray(pose)), joints, model.parents)
    return jnp.einsum("...jkl,...jl->...jk", turned, joints) + moved


def landmarks(
    model: HeadModel, vertices: Float[Array, "*b v 3"] | Float[np.ndarray, "*b v 3"]
) -> Float[Array, "*b n 3"]:
    """The 68 iBUG landmarks of posed vertices, jaw line first (subject's right to left)."""
    corners: Int[np.ndarray, "n 3"] = np.asarray(model.faces)[np.asarray(model.landmark_faces)]
    points = jnp.asarray(vertices)[..., corners, :]
    return jnp.einsum("nc,...nck->...nk", model.landmark_barycentric, points)


def region_faces(model: HeadModel, name: str) -> Bool[np.ndarray, "f"]:
    """Triangles whose three corners lie in the named region.

    Raises:
      UserError: the model has no such region.
    """
    if name not in model.regions:
        raise UserError(f"the head has no region {name!r}; it has {sorted(model.regions)}.")
    return np.asarray(model.regions[name])[np.asarray(model.faces)].all(-1)
