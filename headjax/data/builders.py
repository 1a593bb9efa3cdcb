"""The TFDS builders of multi-view head data sets; TensorFlow is never imported.

A record is one view: image [h, w, 3] uint8 on white, depth [h, w, 1] float32 along the ray (0
where the mask is 0), mask [h, w, 1] uint8 coverage, parts [h, w, 1] uint8 (ids of
`render.parts.PART_NAMES`), camera [25] float32 (EG3D's label), identity, view, identity_code [p],
expression_code [e], uv_positions [g, g, 3] float32, uv_valid [g, g] bool. All but the two numbers
are stored as the array's bytes; ArrayRecord compresses each record as a whole (zstd), which is as
small as PNGs at 64² and takes a tenth of their time to read.

Most users want `data.prepare`, which adds crash safety and reuse; a builder alone works as any
other TFDS builder: `ProceduralHeads(views=HeadViewsConfig()).download_and_prepare()`.
"""

import tempfile
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import tensorflow_datasets as tfds
from tensorflow_datasets.core.sequential_writer import SequentialWriter

from headjax.data.config import HeadViewsConfig, record_counts
from headjax.data.rendering import Arrays
from headjax.data.sources import make_source
from headjax.data.spool import ProgressCallback, Spool, default_workers
from headjax.render.parts import PART_NAMES

_SHARD_BYTES = 256 * 2**20


class _LocalInfo(tfds.core.DatasetInfo):
    """A description that does not look for itself in TFDS's bucket."""

    def initialize_from_bucket(self) -> None:
        """Nothing of ours is there; TFDS would leave an empty temporary folder behind."""


class HeadViewsBuilder(tfds.core.GeneratorBasedBuilder):
    """Identities × views with splits `train`, `val_views` and `val_identities`."""

    VERSION = tfds.core.Version("2.0.0")

    def __init__(
        self,
        *,
        views: HeadViewsConfig,
        workers: int | None = None,
        progress: ProgressCallback | None = None,
        **kwargs,
    ):
        """A builder for one configuration.

        Args:
            views: what to render.
            workers: rendering processes; by default HEADJAX_WORKERS or one a core.
            progress: called after every few views.
            **kwargs: TFDS's own, as `data_dir`.
        """
        self._views, self._progress = views, progress
        self._workers = workers or default_workers()
        super().__init__(file_format="array_record", **kwargs)

    def _info(self) -> tfds.core.DatasetInfo:
        return _LocalInfo(
            builder=self,
            description="Views of heads with depth, mask, part labels, cameras and codes.",
            features=head_features(self._views),
            metadata=tfds.core.MetadataDict(part_names=list(PART_NAMES)),
            disable_shuffling=True,
        )

    def _split_generators(self, dl_manager) -> dict:
        raise NotImplementedError("records are streamed by _download_and_prepare")

    def _generate_examples(self) -> Iterator:
        raise NotImplementedError("records are streamed by _download_and_prepare")

    def _download_and_prepare(self, dl_manager, download_config) -> None:
        """Streams the records to disk.

        TFDS's own path holds a split in memory and, from 1 GB on, sorts it through TensorFlow.
        """
        info = self._info()  # Its paths are those of the temporary folder that TFDS is in now.
        per_shard = max(1, _SHARD_BYTES // record_bytes(self._views))
        writer = SequentialWriter(
            info, max_examples_per_shard=per_shard, file_format="array_record"
        )
        splits = [split for split, count in record_counts(self._views).items() if count]
        writer.initialize_splits(splits)
        with tempfile.TemporaryDirectory(dir=self.data_path, prefix="spool-") as folder:
            with self._spool(Path(folder)) as spool:
                for split in splits:
                    for _, arrays in spool.records(split):
                        writer.add_examples({split: list(examples_of(arrays))})
                spool.finish()
                writer.close_all()
        self.info.set_splits(info.splits)

    def _spool(self, folder: Path) -> Spool:
        return Spool(self._views, folder, workers=self._workers, progress=self._progress)

    # TFDS prints to standard output here; headjax has its own progress line.
    def _log_download_bytes(self) -> None:
        pass

    def _log_download_done(self) -> None:
        pass


class ProceduralHeads(HeadViewsBuilder):
    """headjax's own heads."""


class IctHeads(HeadViewsBuilder):
    """Heads of ICT-FaceKit's identity and expression modes."""


BUILDERS = {"procedural": ProceduralHeads, "ict": IctHeads}


def head_features(config: HeadViewsConfig) -> tfds.features.FeaturesDict:
    """The record's TFDS features."""
    size, uv_size, source = config.resolution, config.uv_size, make_source(config)
    return tfds.features.FeaturesDict(
        {
            "image": _array((size, size, 3), np.uint8),
            "mask": _array((size, size, 1), np.uint8),
            "parts": _array((size, size, 1), np.uint8),
            "depth": _array((size, size, 1), np.float32),
            "camera": _array((25,), np.float32),
            "identity": tfds.features.Scalar(dtype=np.int32),
            "view": tfds.features.Scalar(dtype=np.int32),
            "identity_code": _array((source.identity_size,), np.float32),
            "expression_code": _array((source.expression_size,), np.float32),
            "uv_positions": _array((uv_size, uv_size, 3), np.float32),
            "uv_valid": _array((uv_size, uv_size), np.bool_),
        }
    )


def _array(shape: tuple[int, ...], dtype: type) -> tfds.features.Tensor:
    return tfds.features.Tensor(shape=shape, dtype=dtype, encoding="bytes")


def record_bytes(config: HeadViewsConfig) -> int:
    """The size of a decoded record, about."""
    return config.resolution**2 * 9 + config.uv_size**2 * 13 + 1024


def examples_of(arrays: Arrays) -> Iterator[dict]:
    """Stacked records as TFDS examples."""
    for index in range(len(arrays["view"])):
        yield {name: values[index] for name, values in arrays.items()}
