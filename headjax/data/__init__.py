"""Data sets and input pipelines: multi-view heads made by code, folders in EG3D's format."""

from headjax.data.canonical import nearest_views
from headjax.data.config import SPLITS, HeadViewsConfig, latents
from headjax.data.eg3d_folder import Eg3dDataset
from headjax.data.pipeline import FieldSource, Source, batches
from headjax.data.preparation import Prepared, prepare, read_manifest
from headjax.data.records import RecordSource, load_split
from headjax.data.sheet import data_sheet, sheet_rows
from headjax.data.spool import Progress

__all__ = [
    "SPLITS",
    "Eg3dDataset",
    "FieldSource",
    "HeadViewsConfig",
    "Prepared",
    "Progress",
    "RecordSource",
    "Source",
    "batches",
    "data_sheet",
    "latents",
    "load_split",
    "nearest_views",
    "prepare",
    "read_manifest",
    "sheet_rows",
]
