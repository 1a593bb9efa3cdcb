"""The 19 part labels of CelebAMask-HQ in BiSeNet's order; left and right are the subject's."""

PART_NAMES = (
    "background",
    "skin",
    "l_brow",
    "r_brow",
    "l_eye",
    "r_eye",
    "eye_g",
    "l_ear",
    "r_ear",
    "ear_r",
    "nose",
    "mouth",
    "u_lip",
    "l_lip",
    "neck",
    "neck_l",
    "cloth",
    "hair",
    "hat",
)
PART_IDS = {name: index for index, name in enumerate(PART_NAMES)}
FACE_PARTS = ("skin", "l_brow", "r_brow", "l_eye", "r_eye", "nose", "mouth", "u_lip", "l_lip")

# One colour a label, for pictures of label maps.
PART_COLORS = (
    (255, 255, 255),
    (236, 188, 160),
    (120, 72, 40),
    (160, 100, 52),
    (40, 120, 220),
    (80, 170, 250),
    (90, 90, 100),
    (250, 150, 90),
    (250, 190, 90),
    (240, 220, 60),
    (240, 130, 120),
    (120, 20, 40),
    (210, 50, 80),
    (180, 20, 90),
    (200, 160, 200),
    (220, 200, 80),
    (110, 160, 110),
    (90, 60, 30),
    (70, 80, 150),
)
