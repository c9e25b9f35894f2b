"""The models of topic `models`, as they are published: the newest that holds becomes the champion."""

import asyncio
import logging
from pathlib import Path

import msgspec
from aiokafka import AIOKafkaConsumer, TopicPartition
from aiokafka.errors import KafkaError

from online.models.bundle import BundleRefused, load_bundle, one_line
from online.models.champion import Champion
from online.models.keys import KeyRefused, load_trusted_keys
from online.models.publish import folder_of
from online.models.scoring import Scorer
from streams import measures
from streams.contract import ModelManifest
from streams.inside_aiokafka import fetch_metadata
from streams.kafka import KafkaSettings, await_broker, consuming

log = logging.getLogger(__name__)


class Models:
    """Follows `models`; whatever can't be read, verified or loaded leaves the champion as it is, and is said."""

    def __init__(self, kafka: KafkaSettings, *, prefix: str, trusted_keys: Path, champion: Champion) -> None:
        self._kafka, self._topic, self._trusted, self._champion = kafka, f"{prefix}models", trusted_keys, champion
        self._newest: ModelManifest | None = None
        self._published: dict[str, ModelManifest] = {}  # by version
        champion.load = self.load
        self.caught_up = asyncio.Event()

    def load(self, version: str) -> Scorer:
        """Read a model that was published; raises `BundleRefused` or `KeyRefused`."""
        if version not in self._published:
            raise BundleRefused(f"{version}: not on topic {self._topic}")
        # Keys are read anew each time: one may be younger than this worker.
        return Scorer(load_bundle(folder_of(self._published[version]), load_trusted_keys(self._trusted)))

    async def follow(self) -> None:
        """Load what is published until cancelled; `caught_up` is set once all that was there has been seen."""
        while True:
            await await_broker(self._kafka)
            try:
                await self._follow()
            except KafkaError as error:
                log.warning("topic %s can't be read (%r): trying again", self._topic, error)
                await asyncio.sleep(5.0)

    async def _follow(self) -> None:
        consumer = AIOKafkaConsumer(
            **self._kafka.client_arguments(), enable_auto_commit=False, auto_offset_reset="earliest"
        )
        async with consuming(consumer):
            await fetch_metadata(consumer)
            partitions = [TopicPartition(self._topic, p) for p in consumer.partitions_for_topic(self._topic) or ()]
            if not partitions:
                log.warning("no topic %s: scoring by the rules. Run 'linkcast topics apply' and publish", self._topic)
                self.caught_up.set()
                await asyncio.sleep(30.0)
                return
            consumer.assign(partitions)
            ends = await consumer.end_offsets(partitions)
            await consumer.seek_to_beginning(*partitions)
            while True:
                fetched = await consumer.getmany(timeout_ms=500)
                published = [_manifest(record.value) for records in fetched.values() for record in records]
                await self._take([manifest for manifest in published if manifest])
                if not self.caught_up.is_set() and all([await consumer.position(p) >= ends[p] for p in partitions]):
                    self.caught_up.set()

    async def _take(self, published: list[ModelManifest]) -> None:
        """Make the newest of the models that hold the champion, if it is newer than the one there is."""
        self._published |= {manifest.version: manifest for manifest in published}
        for manifest in sorted(published, key=lambda m: m.published_at, reverse=True):
            if self._newest and manifest.published_at <= self._newest.published_at:
                return
            try:
                scorer = await asyncio.to_thread(self.load, manifest.version)
            except (BundleRefused, KeyRefused) as error:
                who = "the champion stays" if self._newest else "the rules go on"
                log.error("model %s refused, %s: %s", one_line(manifest.version), who, error)
                continue
            self._newest = manifest
            self._champion.becomes(scorer)
            measures.MODEL.clear()
            measures.MODEL.labels(scorer.version).set(1)
            log.info("model %s scores from now on", scorer.version)
            return


def _manifest(value: bytes | None) -> ModelManifest | None:
    try:
        return msgspec.json.decode(value or b"", type=ModelManifest)
    except (ValueError, RecursionError) as error:  # the latter for arrays in arrays in a field that we don't know
        log.error("a record of topic models is no manifest: %s", one_line(str(error)))
        return None
