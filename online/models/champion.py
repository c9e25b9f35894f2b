"""The model of the moment, and those before it that a replay asks for by name."""

import logging
import threading
from collections.abc import Callable

from online.models.bundle import BundleRefused
from online.models.keys import KeyRefused
from online.models.scoring import RulesScorer, Scorer

REMEMBERED = 4
"""Models kept, beside the rules: a replay that crosses a promotion needs two of them, of a megabyte each."""

log = logging.getLogger(__name__)


class Champion:
    """Who scores. Until a bundle is published the rules do."""

    def __init__(self) -> None:
        self._rules = RulesScorer()
        self.scorer: Scorer | RulesScorer = self._rules
        self._remembered: dict[str, Scorer | RulesScorer] = {}  # the newest last
        self._remembering = threading.Lock()  # partitions replay in threads, models come in the loop
        self.load: Callable[[str], Scorer] = _nobody
        """Reads a model by its version; set by whoever knows where models are."""

    def becomes(self, scorer: Scorer | RulesScorer) -> None:
        """Let another score from each partition's next switch on."""
        self._remember(scorer.version, scorer)
        self.scorer = scorer

    def named(self, version: str) -> Scorer | RulesScorer:
        """Return the scorer of a version; where it can't be had any more, say so and return the one of the moment."""
        for at_hand in (self.scorer, self._rules):  # the first for nearly every batch
            if version == at_hand.version:
                return at_hand
        scorer = self._remembered.get(version)
        if scorer is None:
            try:
                scorer = self.load(version)
            except (BundleRefused, KeyRefused) as error:
                scorer = self.scorer
                log.error("model %s scored here and can't be had any more, %s scores in its place: %s",
                          version, scorer.version, error)  # fmt: skip
        self._remember(version, scorer)
        return scorer

    def _remember(self, version: str, scorer: Scorer | RulesScorer) -> None:
        with self._remembering:
            self._remembered.pop(version, None)
            self._remembered[version] = scorer
            if len(self._remembered) > REMEMBERED:
                del self._remembered[next(iter(self._remembered))]


def _nobody(version: str) -> Scorer:
    raise BundleRefused(f"{version}: nobody here knows where models are")
